-- Class-specific neurons: per label set, measure and layer how many neurons are specific to any class, and how many classes have one.
-- coverage is the share of classes with at least one specific neuron in the layer, in_network in the whole network; per_class is the mean number of
-- the layer's neurons a class has; the published means per class over M2D's layers are 37.9 for ESC-50 and 172.0 for CREMA-D. Of each choice of parameters the latest run.
WITH latest AS (
    SELECT run_id, network, dataset, parameters FROM v_run WHERE stage = 'specificity' AND is_latest
),
pairs AS (
    SELECT run_id, measure, neuron_id, layer_id, class_id, label_set_id FROM specific_neuron JOIN latest USING (run_id) JOIN class USING (class_id)
    JOIN neuron USING (neuron_id)
),
sizes AS (SELECT label_set_id, count(*) AS classes FROM class GROUP BY ALL),
whole AS (SELECT run_id, measure, label_set_id, count(DISTINCT class_id) AS classes FROM pairs GROUP BY ALL)
SELECT latest.network, dataset, label_set.name AS label_set, measure, layer.name AS layer, layer.position, count(DISTINCT neuron_id) AS neurons,
       count(*) AS pairs, count(*) / any_value(sizes.classes) AS per_class, count(DISTINCT class_id) / any_value(sizes.classes) AS coverage,
       any_value(whole.classes) / any_value(sizes.classes) AS in_network, parameters, run_id
FROM pairs JOIN latest USING (run_id) JOIN layer USING (layer_id) JOIN label_set USING (label_set_id) JOIN sizes USING (label_set_id)
JOIN whole USING (run_id, measure, label_set_id)
GROUP BY ALL
ORDER BY latest.network, dataset, run_id, label_set, measure, position;
