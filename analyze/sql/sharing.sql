-- Sharing: Jaccard index of the sets of neurons specific to two classes, within a data set and, for label sets of one name, across data sets.
-- Across data sets only classes of the same name are compared; expected is the index of two random sets of these sizes. Of each choice of parameters the latest run.
-- Which runs are compared across data sets says v_specificity_pair.
WITH latest AS (
    SELECT run_id, network, dataset, parameters FROM v_run WHERE stage = 'specificity' AND is_latest
),
sets AS (
    SELECT run_id, network, dataset, parameters, label_set.name AS label_set, class.name AS class, class_id, measure, list(neuron_id) AS neurons,
           (SELECT count(DISTINCT s.neuron_id) FROM specificity AS s WHERE s.run_id = latest.run_id) AS population
    FROM specific_neuron JOIN latest USING (run_id) JOIN class USING (class_id) JOIN label_set USING (label_set_id)
    GROUP BY ALL
)
SELECT a.network, a.measure, a.label_set, a.dataset AS first_dataset, a.class AS first, b.dataset AS second_dataset, b.class AS second,
       len(a.neurons) AS first_neurons, len(b.neurons) AS second_neurons, len(list_intersect(a.neurons, b.neurons)) AS shared,
       shared / (len(a.neurons) + len(b.neurons) - shared) AS jaccard,
       (len(a.neurons) * len(b.neurons) / a.population)
           / (len(a.neurons) + len(b.neurons) - len(a.neurons) * len(b.neurons) / a.population) AS expected,
       a.parameters, a.run_id, b.run_id AS second_run_id
FROM v_specificity_pair AS paired JOIN sets AS a ON a.run_id = paired.run_id
JOIN sets AS b ON b.run_id = second_run_id AND a.measure = b.measure AND a.label_set = b.label_set
    AND CASE WHEN a.run_id = b.run_id THEN a.class_id < b.class_id ELSE a.class = b.class END
ORDER BY a.network, a.measure, a.label_set, first_dataset, second_dataset, jaccard DESC, first, second;
