-- Networks compared on each data set: size, dead neurons, and how well single neurons detect the classes of the main label set.
-- classes_with_selective_neuron counts classes that some neuron detects with an average precision of at least 0.5.
WITH main AS (SELECT dataset_id, min(label_set_id) AS label_set_id FROM label_set GROUP BY dataset_id),
latest AS (SELECT v_activation_run.*, parameters FROM v_activation_run JOIN v_run USING (run_id) WHERE v_run.is_latest),
size AS (
    SELECT run_id, count(*) AS neurons, count(*) FILTER (is_dead) AS dead, count(DISTINCT layer_id) AS layers
    FROM activation_summary JOIN neuron USING (neuron_id)
    WHERE reduction IN ('mean', 'cls', 'window_mean') GROUP BY run_id
),
best AS (
    SELECT run_id, class_id, max(average_precision) AS average_precision
    FROM class_activation JOIN class USING (class_id) JOIN main USING (label_set_id)
    WHERE reduction IN ('mean', 'cls') GROUP BY run_id, class_id
),
detected AS (
    SELECT run_id, count(*) AS classes, count(*) FILTER (average_precision >= 0.5) AS classes_with_selective_neuron,
           median(average_precision) AS median_best_average_precision
    FROM best GROUP BY run_id
)
SELECT dataset, network, clip_s, has_positions AS positions, layers, neurons, dead, classes, classes_with_selective_neuron,
       median_best_average_precision, parameters, run_id
FROM latest JOIN size USING (run_id) LEFT JOIN detected USING (run_id)
ORDER BY dataset, network, run_id;
