-- Classes without a selective neuron: no neuron's activation detects them with an average precision of at least 0.5.
WITH best AS (
    SELECT run_id, parameters, class_id, max(average_precision) AS best_average_precision, arg_max(neuron_id, average_precision) AS neuron_id
    FROM class_activation JOIN (SELECT run_id, parameters FROM v_run WHERE is_latest) USING (run_id)
    WHERE reduction IN ('mean', 'cls')
    GROUP BY run_id, parameters, class_id
)
SELECT network, dataset.name AS dataset, label_set.name AS label_set, class.name AS class, best_average_precision, layer, unit, v_neuron.name AS neuron,
       neuron_id, parameters, best.run_id
FROM best
JOIN v_neuron USING (neuron_id)
JOIN class USING (class_id)
JOIN label_set USING (label_set_id)
JOIN dataset USING (dataset_id)
WHERE best_average_precision < 0.5
ORDER BY network, dataset, best.run_id, label_set_id, best_average_precision;
