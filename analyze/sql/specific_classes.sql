-- Class-specific neurons by class: how many of each layer's neurons are specific to each class, and of how many classes such a neuron has on average.
-- A row for every class, layer and measure that found any; neurons is 0 where the class has none. classes_per_neuron is the mean number of classes of the
-- label set that those neurons are specific to (about 2.6 in the published counts), NULL without any. Of each choice of parameters the latest run.
WITH latest AS (
    SELECT run_id, network, dataset, parameters FROM v_run WHERE stage = 'specificity' AND is_latest
),
pairs AS (
    SELECT run_id, measure, neuron_id, layer_id, class_id, label_set_id,
           count(*) OVER (PARTITION BY run_id, measure, label_set_id, neuron_id) AS classes
    FROM specific_neuron JOIN latest USING (run_id) JOIN class USING (class_id) JOIN neuron USING (neuron_id)
),
cells AS (
    SELECT DISTINCT run_id, measure, layer_id, label_set_id, class.class_id, class.name AS class FROM pairs JOIN class USING (label_set_id)
)
SELECT latest.network, dataset, label_set.name AS label_set, measure, layer.name AS layer, layer.position, class, count(neuron_id) AS neurons,
       avg(classes) AS classes_per_neuron, class_id, parameters, run_id
FROM cells LEFT JOIN pairs USING (run_id, measure, layer_id, label_set_id, class_id) JOIN latest USING (run_id) JOIN layer USING (layer_id)
JOIN label_set USING (label_set_id)
GROUP BY ALL
ORDER BY latest.network, dataset, run_id, label_set, measure, position, class_id;
