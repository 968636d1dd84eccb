-- Polysemanticity: share of each layer's neurons whose top clips have something in common that captions say (Algorithm 1, Figures 6 and 11 to 14).
-- A neuron is interpretable at tau when at least tau * k of its k top clips share a cluster of sentences; uninterpretable is the share that is not,
-- as the figures draw it. neurons counts those without a missing caption; untold the layer's other living ones, which have fewer than k clips above
-- 0 and never less than 0, or a missing caption. low and high bound the 95 % interval of the share (Wilson's score). Of each choice of parameters the
-- latest run.
WITH latest AS (
    SELECT run_id, network, dataset, v_run.parameters, coalesce((run.parameters::JSON -> 'taus')::DOUBLE[], [0.6, 0.8, 1.0]) AS taus,
           (SELECT max(a.run_id) FROM run AS a WHERE a.run_key = run.parameters::JSON ->> 'activations') AS activation_run
    FROM v_run JOIN run USING (run_id) WHERE run.stage = 'polysemanticity' AND is_latest
),
living AS (
    SELECT latest.run_id, layer_id, count(DISTINCT neuron_id) AS living FROM latest
    JOIN activation_summary ON activation_summary.run_id = activation_run AND reduction IN ('mean', 'cls', 'window_mean')
    JOIN neuron USING (neuron_id) WHERE NOT is_dead AND clips > 0 GROUP BY ALL
),
counted AS (
    SELECT run_id, layer_id, k, tau, count(*) FILTER (missing = 0) AS neurons, count(*) FILTER (missing = 0 AND shared >= tau * k - 1e-9) AS interpretable
    FROM polysemanticity JOIN latest USING (run_id) JOIN neuron USING (neuron_id) CROSS JOIN (SELECT unnest(latest.taus) AS tau)
    GROUP BY ALL
)
SELECT network, dataset, layer.name AS layer, layer.position, k, tau, neurons, interpretable, interpretable / neurons AS share,
       (share + 1.92073 / neurons - 1.95996 * sqrt(share * (1 - share) / neurons + 0.960365 / neurons / neurons)) / (1 + 3.84146 / neurons) AS low,
       (share + 1.92073 / neurons + 1.95996 * sqrt(share * (1 - share) / neurons + 0.960365 / neurons / neurons)) / (1 + 3.84146 / neurons) AS high,
       1 - share AS uninterpretable, living - neurons AS untold, parameters, run_id
FROM counted JOIN latest USING (run_id) JOIN layer USING (layer_id) LEFT JOIN living USING (run_id, layer_id)
WHERE neurons > 0
ORDER BY network, dataset, run_id, position, k, tau;
