-- Polysemanticity: share of each layer's neurons whose top clips have something in common that captions say (Algorithm 1, Figures 6 and 11 to 14).
-- A neuron is interpretable at tau when at least tau * k of its k top clips share a cluster of sentences; uninterpretable is the share that is not,
-- as the figures draw it. neurons counts those without a missing caption; untold the layer's other living ones, which have fewer than k clips above
-- 0 and never less than 0, or a missing caption. low and high bound the 95 % interval of the share; near-copies (see v_heard) count as one. Of each
-- choice of parameters the latest run.
WITH latest AS (
    SELECT grouped.run_id, network, dataset, v_run.parameters, coalesce((grouped.parameters::JSON -> 'taus')::DOUBLE[], [0.6, 0.8, 1.0]) AS taus,
           recorded.run_id AS activation_run
    FROM v_run JOIN run AS grouped USING (run_id) LEFT JOIN run AS recorded ON recorded.run_key = grouped.parameters::JSON ->> 'activations'
    WHERE grouped.stage = 'polysemanticity' AND is_latest
),
living AS (
    SELECT latest.run_id, layer_id, count(DISTINCT neuron_id) AS living FROM latest
    JOIN activation_summary ON activation_summary.run_id = activation_run AND reduction IN ('mean', 'cls', 'window_mean')
    JOIN neuron USING (neuron_id) WHERE NOT is_dead AND clips > 0 GROUP BY ALL
),
counted AS (
    SELECT run_id, layer_id, k, tau, count(*) AS neurons, count(*) FILTER (shared >= tau * k - 1e-9) AS interpretable,
           share_interval(list((shared >= tau * k - 1e-9)::DOUBLE ORDER BY neuron_id),
                          near_copies(list(coalesce(sources, []) ORDER BY neuron_id))::VARCHAR[]) AS bounds
    FROM polysemanticity JOIN latest USING (run_id) JOIN neuron USING (neuron_id)
    LEFT JOIN (SELECT run_id AS activation_run, neuron_id, sources FROM v_heard) AS heard USING (activation_run, neuron_id)
    CROSS JOIN (SELECT unnest(latest.taus) AS tau)
    WHERE missing = 0
    GROUP BY run_id, layer_id, k, tau
)
SELECT network, dataset, layer.name AS layer, layer.position, k, tau, neurons, interpretable, interpretable / neurons AS share, bounds.low, bounds.high,
       1 - share AS uninterpretable, living - neurons AS untold, parameters, run_id
FROM counted JOIN latest USING (run_id) JOIN layer USING (layer_id) LEFT JOIN living USING (run_id, layer_id)
ORDER BY network, dataset, run_id, position, k, tau;
