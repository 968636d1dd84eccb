-- Most selective neurons: ten per class by average precision and ten by selectivity index, classes of all label sets.
-- The selectivity index is 1 for a neuron that was active on one class only, be it on a single clip: read it beside average_precision.
WITH ranked AS (
    SELECT class_activation.*, parameters, ranked_by, value,
           row_number() OVER (PARTITION BY run_id, class_id, ranked_by ORDER BY value DESC, neuron_id) AS rank
    FROM class_activation
    JOIN (SELECT run_id, parameters FROM v_run WHERE is_latest) USING (run_id),
    LATERAL (VALUES ('average_precision', average_precision), ('selectivity', selectivity)) AS measure (ranked_by, value)
    WHERE reduction IN ('mean', 'cls') AND value IS NOT NULL
)
SELECT network, dataset.name AS dataset, label_set.name AS label_set, class.name AS class, ranked_by, rank, layer, unit, v_neuron.name AS neuron,
       average_precision, selectivity, ranked.mean, share_active, clips, neuron_id, parameters, ranked.run_id
FROM ranked
JOIN v_neuron USING (neuron_id)
JOIN class USING (class_id)
JOIN label_set USING (label_set_id)
JOIN dataset USING (dataset_id)
WHERE rank <= 10
ORDER BY network, dataset, ranked.run_id, label_set_id, class_id, ranked_by, rank;
