-- Sharing: Jaccard index of the sets of neurons specific to two classes, within a data set and, for label sets of one name, across data sets.
-- Across data sets only classes of the same name are compared; expected is the index of two random sets of these sizes. Of each choice of parameters the latest run.
-- Across data sets runs of the same parameters are compared.
WITH latest AS (
    SELECT run_id, network, network_sha256, dataset, settings, v_run.parameters
    FROM v_run JOIN run USING (run_id) WHERE v_run.stage = 'specificity' AND is_latest
),
sets AS (
    SELECT run_id, network, network_sha256, dataset, settings, parameters, label_set.name AS label_set, class.name AS class, class_id, measure, list(neuron_id) AS neurons,
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
FROM sets AS a JOIN sets AS b
    ON a.network = b.network AND a.network_sha256 = b.network_sha256 AND a.measure = b.measure AND a.label_set = b.label_set
    AND ((a.run_id = b.run_id AND a.class_id < b.class_id) OR (a.run_id < b.run_id AND a.class = b.class AND a.dataset <> b.dataset AND a.settings = b.settings))
ORDER BY a.network, a.measure, a.label_set, first_dataset, second_dataset, jaccard DESC, first, second;
