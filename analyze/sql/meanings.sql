-- Meanings: share of each layer's neurons whose highest clips are, by their captions' words, of no kind, of one, or of several.
-- neurons counts those with enough captioned clips, which of neurons that are never below 0 must be above it; untold the layer's other living
-- ones. low and high bound the 95 % interval of the share; near-copies (see v_heard) count as one. Of each choice of parameters the latest run.
WITH latest AS (
    SELECT grouped.run_id, network, dataset, v_run.parameters, recorded.run_id AS activation_run
    FROM v_run JOIN run AS grouped USING (run_id) LEFT JOIN run AS recorded ON recorded.run_key = grouped.parameters::JSON ->> 'activations'
    WHERE grouped.stage = 'polysemanticity' AND is_latest
),
living AS (
    SELECT latest.run_id, layer_id, count(DISTINCT neuron_id) AS living FROM latest
    JOIN activation_summary ON activation_summary.run_id = activation_run AND reduction IN ('mean', 'cls', 'window_mean')
    JOIN neuron USING (neuron_id) WHERE NOT is_dead AND clips > 0 GROUP BY ALL
),
counted AS (
    SELECT run_id, layer_id, verdict.verdict, verdict.least, count(*) AS neurons, count(*) FILTER (meanings BETWEEN least AND most) AS found,
           share_interval(list((meanings BETWEEN least AND most)::DOUBLE ORDER BY neuron_id),
                          near_copies(list(coalesce(sources, []) ORDER BY neuron_id))::VARCHAR[]) AS bounds
    FROM meaning_count JOIN latest USING (run_id) JOIN neuron USING (neuron_id)
    LEFT JOIN (SELECT run_id AS activation_run, neuron_id, sources FROM v_heard) AS heard USING (activation_run, neuron_id)
    CROSS JOIN (VALUES ('none', 0, 0), ('one', 1, 1), ('several', 2, 1000000)) AS verdict(verdict, least, most)
    GROUP BY run_id, layer_id, verdict.verdict, verdict.least
)
SELECT network, dataset, layer.name AS layer, layer.position, verdict, neurons, found, found / neurons AS share, bounds.low, bounds.high,
       living - neurons AS untold, parameters, run_id
FROM counted JOIN latest USING (run_id) JOIN layer USING (layer_id) LEFT JOIN living USING (run_id, layer_id)
ORDER BY network, dataset, run_id, position, least;
