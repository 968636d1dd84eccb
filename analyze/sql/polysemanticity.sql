-- Polysemanticity: share of each layer's neurons whose top clips have something in common that captions say (Algorithm 1, Figures 6 and 11 to 14).
-- A neuron is interpretable at tau when at least tau * k of its k top clips share a cluster of sentences; neurons counts those with k clips above 0
-- and no missing caption. low and high bound the 95 % interval of the share (Wilson's score). Of each choice of parameters the latest run.
WITH latest AS (
    SELECT run_id, network, dataset, parameters FROM v_run WHERE stage = 'polysemanticity' AND is_latest
)
SELECT network, dataset, layer.name AS layer, layer.position, k, tau, count(*) AS neurons, count(*) FILTER (shared >= tau * k - 1e-9) AS interpretable,
       interpretable / neurons AS share,
       (share + 1.92073 / neurons - 1.95996 * sqrt(share * (1 - share) / neurons + 0.960365 / neurons / neurons)) / (1 + 3.84146 / neurons) AS low,
       (share + 1.92073 / neurons + 1.95996 * sqrt(share * (1 - share) / neurons + 0.960365 / neurons / neurons)) / (1 + 3.84146 / neurons) AS high,
       parameters, run_id
FROM polysemanticity JOIN latest USING (run_id) JOIN neuron USING (neuron_id) JOIN layer USING (layer_id)
CROSS JOIN (SELECT unnest([0.6, 0.8, 1.0])::DOUBLE AS tau)
WHERE missing = 0
GROUP BY ALL
ORDER BY network, dataset, run_id, position, k, tau;
