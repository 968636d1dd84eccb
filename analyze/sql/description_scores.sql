-- Held-out scores: how well descriptions tell, layer by layer, which clips they were not written from activate the neuron (median AUROC).
-- floor is the median over neurons of the 95 % quantile that other neurons' descriptions reach (for scorer judge: the same ratings with clips drawn
-- anew); above_floor the share of neurons beyond their own, discoveries the share with a q-value of at most 0.05 (see neuron_scores). low and high bound
-- the 95 % interval of the median; near-copies (see v_heard) count as one. Judges rate few clips of few neurons, half of them positives. correlation is
-- the median over neurons of Spearman's between activations and what rule and tuning predict. Of each choice of parameters the latest run.
WITH latest AS (
    SELECT scored.run_id, network, dataset, v_run.parameters, recorded.run_id AS activation_run
    FROM v_run JOIN run AS scored USING (run_id) LEFT JOIN run AS recorded ON recorded.run_key = scored.parameters::JSON ->> 'activations'
    WHERE scored.stage = 'scores' AND is_latest
),
tested AS (
    SELECT run_id, scorer, unnest(list(neuron_id ORDER BY neuron_id)) AS neuron_id, unnest(q_values(list(p_value ORDER BY neuron_id))) AS q_value
    FROM description_score JOIN latest USING (run_id) WHERE p_value IS NOT NULL GROUP BY run_id, scorer
),
scored AS (
    SELECT description_score.*, layer_id, q_value, coalesce(sources, []) AS sources
    FROM description_score JOIN latest USING (run_id) JOIN neuron USING (neuron_id) LEFT JOIN tested USING (run_id, scorer, neuron_id)
    LEFT JOIN (SELECT run_id AS activation_run, neuron_id, sources FROM v_heard) AS heard USING (activation_run, neuron_id)
),
summed AS (
    SELECT run_id, layer_id, scorer, count(*) AS neurons, median(clips)::INTEGER AS clips, quantile_cont(auroc, 0.25) AS quantile_25,
           median(auroc) AS auroc, quantile_cont(auroc, 0.75) AS quantile_75,
           median_interval(list(auroc ORDER BY neuron_id), near_copies(list(sources ORDER BY neuron_id))::VARCHAR[]) AS bounds,
           median(average_precision) AS average_precision, median(correlation) AS correlation, median(floor) AS floor, count(*) FILTER (auroc > floor) / count(*) AS above_floor,
           count(*) FILTER (q_value <= 0.05) / nullif(count(q_value), 0) AS discoveries
    FROM scored GROUP BY ALL
)
SELECT latest.network, dataset, layer.name AS layer, layer.position, scorer, neurons, clips, quantile_25, auroc, quantile_75, bounds.low, bounds.high,
       average_precision, correlation, floor, above_floor, discoveries, parameters, run_id
FROM summed JOIN latest USING (run_id) JOIN layer USING (layer_id)
ORDER BY latest.network, dataset, run_id, position, scorer;
