-- Entropies of the chosen clusters per layer, as a box plot draws them (Figure 5): over classes (SEnt), positions (PEnt) and channels (CEnt).
-- Each is relative to its maximum, 0 to 1; clusters counts those for which it is defined. Of each choice of parameters the latest run.
WITH latest AS (
    SELECT run_id, dataset, parameters FROM v_run WHERE stage = 'clusters' AND is_latest
),
chosen AS (
    UNPIVOT (SELECT run_id, layer_id, class_entropy_ratio AS SEnt, position_entropy_ratio AS PEnt, channel_entropy_ratio AS CEnt
             FROM cluster WHERE is_chosen)
    ON SEnt, PEnt, CEnt INTO NAME entropy VALUE ratio
)
SELECT
    network.name AS network, dataset, layer.name AS layer, layer.position, layer.kind, entropy, count(ratio) AS clusters, min(ratio) AS minimum,
    quantile_cont(ratio, 0.25) AS quantile_25, median(ratio) AS median, quantile_cont(ratio, 0.75) AS quantile_75, max(ratio) AS maximum,
    avg(ratio) AS mean, parameters, run_id
FROM chosen JOIN latest USING (run_id) JOIN layer USING (layer_id) JOIN network USING (network_id)
GROUP BY ALL
ORDER BY network, dataset, run_id, position, entropy DESC;
