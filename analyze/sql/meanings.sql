-- Meanings: share of each layer's neurons whose highest clips are, by their captions' words, of no kind, of one, or of several.
-- neurons counts those with enough captioned clips above 0. low and high bound the 95 % interval of the share (Wilson's score). Of each choice of parameters the latest run.
WITH latest AS (
    SELECT run_id, network, dataset, parameters FROM v_run WHERE stage = 'polysemanticity' AND is_latest
)
SELECT network, dataset, layer.name AS layer, layer.position, verdict.verdict, count(*) AS neurons,
       count(*) FILTER (meanings BETWEEN verdict.least AND verdict.most) AS found, found / neurons AS share,
       (share + 1.92073 / neurons - 1.95996 * sqrt(share * (1 - share) / neurons + 0.960365 / neurons / neurons)) / (1 + 3.84146 / neurons) AS low,
       (share + 1.92073 / neurons + 1.95996 * sqrt(share * (1 - share) / neurons + 0.960365 / neurons / neurons)) / (1 + 3.84146 / neurons) AS high,
       parameters, run_id
FROM meaning_count JOIN latest USING (run_id) JOIN neuron USING (neuron_id) JOIN layer USING (layer_id)
CROSS JOIN (VALUES ('none', 0, 0), ('one', 1, 1), ('several', 2, 1000000)) AS verdict(verdict, least, most)
GROUP BY network, dataset, layer.name, layer.position, verdict.verdict, verdict.least, parameters, run_id
ORDER BY network, dataset, run_id, position, verdict.least;
