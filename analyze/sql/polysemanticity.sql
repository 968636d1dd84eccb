-- Polysemanticity: share of each layer's neurons whose top clips have something in common that captions say (Algorithm 1, Figures 6 and 11 to 14).
-- A neuron is interpretable at tau when at least tau * k of its k top clips share a cluster of sentences; neurons counts those with k clips above 0
-- and no missing caption. low and high bound the 95 % interval of the share; near-copies (see v_heard) count as one. Latest run each.
WITH latest AS (
    SELECT grouped.run_id, grouped.parameters::JSON ->> 'network' AS network, grouped.parameters::JSON ->> 'dataset' AS dataset,
           recorded.run_id AS activation_run
    FROM run AS grouped LEFT JOIN run AS recorded ON recorded.run_key = grouped.parameters::JSON ->> 'activations'
    WHERE grouped.stage = 'polysemanticity' AND grouped.status = 'done'
    QUALIFY grouped.run_id = max(grouped.run_id) OVER (PARTITION BY network, dataset)
),
counted AS (
    SELECT run_id, layer_id, k, tau, count(*) AS neurons, count(*) FILTER (shared >= tau * k - 1e-9) AS interpretable,
           share_interval(list((shared >= tau * k - 1e-9)::DOUBLE ORDER BY neuron_id),
                          near_copies(list(coalesce(sources, []) ORDER BY neuron_id))::VARCHAR[]) AS bounds
    FROM polysemanticity JOIN latest USING (run_id) JOIN neuron USING (neuron_id)
    LEFT JOIN (SELECT run_id AS activation_run, neuron_id, sources FROM v_heard) AS heard USING (activation_run, neuron_id)
    CROSS JOIN (SELECT unnest([0.6, 0.8, 1.0])::DOUBLE AS tau)
    WHERE missing = 0
    GROUP BY run_id, layer_id, k, tau
)
SELECT network, dataset, layer.name AS layer, layer.position, k, tau, neurons, interpretable, interpretable / neurons AS share, bounds.low, bounds.high,
       run_id
FROM counted JOIN latest USING (run_id) JOIN layer USING (layer_id)
ORDER BY network, dataset, position, k, tau;
