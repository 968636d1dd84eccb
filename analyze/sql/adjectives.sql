-- Acoustic adjectives: in how many neurons' descriptions each occurs, per layer (Figures 3, 5 and 9). share is of the layer's described neurons.
-- level: basic adjectives name one measurable property, high-level ones (the rest) what a listener feels or infers. Of each choice of parameters the latest run.
WITH latest AS (
    SELECT run_id, network, dataset, parameters FROM v_run WHERE stage = 'descriptions' AND is_latest
),
described AS (
    SELECT run_id, layer_id, count(DISTINCT neuron_id) AS neurons FROM summary_point JOIN latest USING (run_id) JOIN neuron USING (neuron_id)
    WHERE is_kept GROUP BY ALL
)
SELECT latest.network, dataset, layer.name AS layer, layer.position, word AS adjective,
       CASE WHEN word IN (FROM v_basic_adjective) THEN 'basic' ELSE 'high-level' END AS level,
       count(*) AS neurons, count(*) / any_value(described.neurons) AS share, parameters, run_id
FROM concept JOIN latest USING (run_id) JOIN neuron USING (neuron_id) JOIN layer USING (layer_id) JOIN described USING (run_id, layer_id)
WHERE part_of_speech = 'adjective' AND is_acoustic
GROUP BY ALL
ORDER BY latest.network, dataset, run_id, position, neurons DESC, adjective;
