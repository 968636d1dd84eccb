-- Sharing in full: Jaccard index of the sets of neurons specific to every class of one label set and every class of another, or of the same.
-- Within a data set each label set with itself; across data sets that a network heard, label sets of one name, and the data sets' main ones. Two classes
-- stand once, in the order of the data sets' runs, within a label set both ways. jaccard is NULL where neither class has a neuron; expected is the index
-- of two random sets of these sizes. Of each choice of parameters the latest run; which runs are compared across data sets says v_specificity_pair.
WITH latest AS (
    SELECT run_id, network, dataset, dataset_sha256, v_run.parameters FROM v_run JOIN run USING (run_id) WHERE run.stage = 'specificity' AND is_latest
),
sets AS (
    SELECT latest.run_id, network, parameters, latest.dataset, label_set_id, label_set.name AS label_set,
           label_set_id = min(label_set_id) OVER (PARTITION BY dataset_id) AS is_main,
           (SELECT count(*) FROM specificity AS s WHERE s.run_id = latest.run_id AND s.label_set_id = label_set.label_set_id) AS population
    FROM latest JOIN dataset ON dataset.name = latest.dataset AND content_sha256 = dataset_sha256 JOIN label_set USING (dataset_id)
),
sized AS (SELECT run_id, measure, class_id, count(*) AS neurons FROM specific_neuron JOIN latest USING (run_id) GROUP BY ALL),
classes AS (
    SELECT sets.*, measure, class_id, class.name AS class, coalesce(neurons, 0) AS neurons
    FROM sets JOIN class USING (label_set_id) CROSS JOIN (SELECT DISTINCT measure FROM sized) LEFT JOIN sized USING (run_id, measure, class_id)
    WHERE population > 0
),
compared AS (
    SELECT a.network, a.measure, a.dataset AS first_dataset, a.label_set AS first_label_set, a.class AS first, b.dataset AS second_dataset,
           b.label_set AS second_label_set, b.class AS second, a.neurons AS first_neurons, b.neurons AS second_neurons, a.population,
           a.class_id AS first_class_id, b.class_id AS second_class_id, a.parameters, a.run_id, b.run_id AS second_run_id
    FROM v_specificity_pair AS paired JOIN classes AS a ON a.run_id = paired.run_id JOIN classes AS b ON b.run_id = second_run_id AND a.measure = b.measure
        AND CASE WHEN a.run_id = b.run_id THEN a.label_set_id = b.label_set_id AND a.class_id <> b.class_id
                 ELSE a.label_set = b.label_set OR (a.is_main AND b.is_main) END
),
overlap AS (
    SELECT paired.run_id, second_run_id, a.measure, a.class_id AS first_class_id, b.class_id AS second_class_id, count(*) AS shared
    FROM v_specificity_pair AS paired JOIN specific_neuron AS a ON a.run_id = paired.run_id
    JOIN specific_neuron AS b ON b.run_id = second_run_id AND b.measure = a.measure AND b.neuron_id = a.neuron_id
    GROUP BY ALL
)
SELECT network, measure, first_dataset, first_label_set, first, second_dataset, second_label_set, second, first_neurons, second_neurons,
       shared, shared / nullif(first_neurons + second_neurons - shared, 0) AS jaccard,
       CASE WHEN first_neurons * second_neurons > 0 THEN first_neurons * second_neurons / population
            / (first_neurons + second_neurons - first_neurons * second_neurons / population) END AS expected,
       first_class_id, second_class_id, parameters, run_id, second_run_id
FROM (SELECT compared.*, coalesce(shared, 0) AS shared
      FROM compared LEFT JOIN overlap USING (run_id, second_run_id, measure, first_class_id, second_class_id))
ORDER BY network, measure, run_id, second_run_id, first_class_id, second_class_id;
