-- Meanings: share of each layer's neurons whose highest clips are, by their captions' words, of no kind, of one, or of several.
-- neurons counts those with enough captioned clips, which of neurons that are never below 0 must be above it; untold the layer's other living
-- ones. low and high bound the 95 % interval of the share (Wilson's score). Of each choice of parameters the latest run.
WITH latest AS (
    SELECT run_id, network, dataset, v_run.parameters,
           (SELECT max(a.run_id) FROM run AS a WHERE a.run_key = run.parameters::JSON ->> 'activations') AS activation_run
    FROM v_run JOIN run USING (run_id) WHERE run.stage = 'polysemanticity' AND is_latest
),
living AS (
    SELECT latest.run_id, layer_id, count(DISTINCT neuron_id) AS living FROM latest
    JOIN activation_summary ON activation_summary.run_id = activation_run AND reduction IN ('mean', 'cls', 'window_mean')
    JOIN neuron USING (neuron_id) WHERE NOT is_dead AND clips > 0 GROUP BY ALL
)
SELECT network, dataset, layer.name AS layer, layer.position, verdict.verdict, count(*) AS neurons,
       count(*) FILTER (meanings BETWEEN verdict.least AND verdict.most) AS found, found / neurons AS share,
       (share + 1.92073 / neurons - 1.95996 * sqrt(share * (1 - share) / neurons + 0.960365 / neurons / neurons)) / (1 + 3.84146 / neurons) AS low,
       (share + 1.92073 / neurons + 1.95996 * sqrt(share * (1 - share) / neurons + 0.960365 / neurons / neurons)) / (1 + 3.84146 / neurons) AS high,
       any_value(living) - count(*) AS untold, parameters, run_id
FROM meaning_count JOIN latest USING (run_id) JOIN neuron USING (neuron_id) JOIN layer USING (layer_id) LEFT JOIN living USING (run_id, layer_id)
CROSS JOIN (VALUES ('none', 0, 0), ('one', 1, 1), ('several', 2, 1000000)) AS verdict(verdict, least, most)
GROUP BY network, dataset, layer.name, layer.position, verdict.verdict, verdict.least, parameters, run_id
ORDER BY network, dataset, run_id, position, verdict.least;
