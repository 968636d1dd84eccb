-- Trust: how far each layer's descriptions can be trusted, by who wrote them (engine), how they were scored, and test: medians over neurons.
-- test is held out (AUROC, as in description_scores), near misses, intruder or fuzz (see table description_test); chance is what guessing reaches. value
-- is the median over neurons, low and high bound its 95 % interval, in which near-copies (see v_heard) count as one. floor is the median of what other
-- neurons' descriptions reach (their 95 % quantile), above_floor the share of neurons beyond their own, trusted the share beyond it with a q-value
-- (Benjamini and Hochberg, over the neurons of a run, scorer and test) of at most 0.05. described counts the layer's neurons with a description; those
-- without a score are not among the shares. Of each choice of parameters the latest run.
WITH latest AS (
    SELECT scored.run_id, v_run.network, v_run.dataset, v_run.parameters, recorded.run_id AS activation_run, described.run_id AS description_run,
           coalesce(described.parameters::JSON ->> '$.model.name', described.parameters::JSON ->> 'model') AS engine
    FROM v_run JOIN run AS scored USING (run_id) JOIN run AS described ON described.run_key = scored.parameters::JSON ->> 'descriptions'
    LEFT JOIN run AS recorded ON recorded.run_key = scored.parameters::JSON ->> 'activations'
    WHERE scored.stage = 'scores' AND is_latest
),
every AS (
    SELECT run_id, neuron_id, scorer, 'held out' AS test, auroc AS value, floor, p_value FROM description_score
    UNION ALL SELECT run_id, neuron_id, scorer, test, value, floor, p_value FROM description_test
),
tested AS (
    SELECT run_id, scorer, test, unnest(list(neuron_id ORDER BY neuron_id)) AS neuron_id, unnest(q_values(list(p_value ORDER BY neuron_id))) AS q_value
    FROM every JOIN latest USING (run_id) WHERE p_value IS NOT NULL GROUP BY run_id, scorer, test
),
judged AS (
    SELECT every.*, layer_id, trust_level(value, floor, q_value) AS level, coalesce(sources, []) AS sources
    FROM every JOIN latest USING (run_id) JOIN neuron USING (neuron_id) LEFT JOIN tested USING (run_id, scorer, test, neuron_id)
    LEFT JOIN (SELECT run_id AS activation_run, neuron_id, sources FROM v_heard) AS heard USING (activation_run, neuron_id)
),
described AS (
    SELECT latest.run_id, layer_id, count(*) AS described
    FROM latest JOIN v_description ON v_description.run_id = description_run JOIN neuron USING (neuron_id) WHERE description IS NOT NULL GROUP BY ALL
),
summed AS (
    SELECT run_id, layer_id, scorer, test, count(*) AS neurons, median(value) AS value,
           median_interval(list(value ORDER BY neuron_id), near_copies(list(sources ORDER BY neuron_id))::VARCHAR[]) AS bounds,
           median(floor) AS floor, count(*) FILTER (value > floor) / count(*) AS above_floor, count(*) FILTER (level = 'trusted') / count(*) AS trusted
    FROM judged GROUP BY ALL
)
SELECT latest.network, dataset, engine, layer.name AS layer, layer.position, scorer, test, described, neurons, value, bounds.low, bounds.high,
       CASE test WHEN 'intruder' THEN 0.2::DOUBLE ELSE 0.5::DOUBLE END AS chance, floor, above_floor, trusted, parameters, run_id
FROM summed JOIN latest USING (run_id) JOIN layer USING (layer_id) LEFT JOIN described USING (run_id, layer_id)
ORDER BY latest.network, dataset, run_id, position, scorer, list_position(['held out', 'near misses', 'intruder', 'fuzz'], test);
