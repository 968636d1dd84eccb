-- Layers: neurons, how many are dead, and how selective the rest are for the classes of the data set's main label set.
-- A neuron's best average precision is over the classes; mean_best_... are means over the layer's living neurons. Of each choice of parameters the latest run.
WITH main AS (SELECT dataset_id, min(label_set_id) AS label_set_id FROM label_set GROUP BY dataset_id),
best AS (
    SELECT run_id, neuron_id, max(selectivity) AS selectivity, max(average_precision) AS average_precision
    FROM class_activation JOIN class USING (class_id) JOIN main USING (label_set_id)
    WHERE reduction IN ('mean', 'cls')
    GROUP BY run_id, neuron_id
)
SELECT
    network, dataset, dataset_version, layer.name AS layer, layer.position, kind,
    count(*) AS neurons,
    count(*) FILTER (is_dead) AS dead,
    avg(share_active) AS mean_share_active,
    avg(best.selectivity) FILTER (NOT is_dead) AS mean_best_selectivity,
    avg(best.average_precision) FILTER (NOT is_dead) AS mean_best_average_precision,
    max(best.average_precision) AS best_average_precision,
    parameters,
    run_id
FROM v_activation_run
JOIN (SELECT run_id, parameters FROM v_run WHERE v_run.is_latest) USING (run_id)
JOIN activation_summary USING (run_id)
JOIN neuron USING (neuron_id)
JOIN layer USING (layer_id)
LEFT JOIN best USING (run_id, neuron_id)
WHERE reduction IN ('mean', 'cls', 'window_mean')
GROUP BY ALL
ORDER BY network, dataset, run_id, layer.position;
