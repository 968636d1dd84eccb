-- Interventions: how many percentage points of accuracy a layer's clusters cost when disturbed, against random neurons of the same number (Table 2).
-- A cluster's first and second class are those that move it most among the ones the network can name; others is the mean over the rest. Drops are
-- means over repetitions, then over clusters; low and high bound the 95 % interval of the paired difference, p_value is its two-sided sign test: clusters
-- that lie in one another hold the same neurons, so both go by the top-level ones of those disturbed (top_clusters; worse and better count them), see
-- analyze/intervals.py. published is the CLAP paper's drop of the first class. Latest run of each layer.
WITH latest AS (
    SELECT DISTINCT intervention.run_id, layer_id, parameters::JSON ->> 'network' AS network, parameters::JSON ->> 'dataset' AS dataset
    FROM intervention JOIN cluster USING (cluster_id) JOIN run ON run.run_id = intervention.run_id
    WHERE status = 'done'
    QUALIFY intervention.run_id = max(intervention.run_id) OVER (PARTITION BY network, dataset, layer_id)
),
dropped AS (
    SELECT latest.run_id, cluster_id, intervention.class_id, target, 100 * (any_value(readout.correct) - avg(intervention.correct)) / any_value(readout.total) AS points
    FROM intervention JOIN cluster USING (cluster_id) JOIN latest ON latest.run_id = intervention.run_id AND latest.layer_id = cluster.layer_id
    JOIN readout ON readout.run_id = intervention.run_id AND readout.class_id = intervention.class_id
    GROUP BY ALL
),
ranked AS (
    SELECT dropped.*, row_number() OVER (PARTITION BY dropped.run_id, cluster_id, target ORDER BY ccav.activation DESC, class_id) AS place
    FROM dropped JOIN ccav USING (cluster_id, class_id)
),
by_place AS (
    SELECT run_id, cluster_id, CASE place WHEN 1 THEN 'first' WHEN 2 THEN 'second' ELSE 'others' END AS classes,
           avg(points) FILTER (target = 'cluster') AS selected, avg(points) FILTER (target = 'control') AS control
    FROM ranked GROUP BY ALL
),
disturbed AS (
    SELECT seen.run_id, cluster_id, any_value(layer_id) AS layer_id, any_value(neurons) AS neurons, min(neuron_id) AS neuron_id
    FROM (SELECT DISTINCT run_id, cluster_id FROM by_place) AS seen JOIN cluster USING (cluster_id) JOIN cluster_member USING (cluster_id)
    GROUP BY ALL
),
nested AS (
    SELECT inside.run_id, inside.cluster_id, arg_max(around.cluster_id, around.neurons) AS top_id
    FROM disturbed AS inside JOIN cluster_member USING (neuron_id)
    JOIN disturbed AS around ON around.run_id = inside.run_id AND around.cluster_id = cluster_member.cluster_id
    GROUP BY ALL
),
topmost AS (
    SELECT run_id, layer_id, classes, count(*) AS top_clusters, count(*) FILTER (difference > 1e-9) AS worse, count(*) FILTER (difference < -1e-9) AS better
    FROM (SELECT run_id, layer_id, classes, top_id, avg(selected - control) AS difference
          FROM by_place JOIN nested USING (run_id, cluster_id) JOIN disturbed USING (run_id, cluster_id) GROUP BY ALL)
    GROUP BY ALL
),
summed AS (
    SELECT network, dataset, layer.name AS layer, layer.position, classes, count(*) AS clusters, avg(selected) AS selected, avg(control) AS control,
           avg(selected - control) AS difference, mean_interval(list(selected - control), list(top_id::VARCHAR)) AS bounds, by_place.run_id, layer.layer_id
    FROM by_place JOIN nested USING (run_id, cluster_id) JOIN disturbed USING (run_id, cluster_id) JOIN latest USING (run_id, layer_id)
    JOIN layer USING (layer_id)
    GROUP BY ALL
),
published (network, layer, selected) AS (VALUES ('clap-2022', 'fc1', 3.0), ('clap-2022', 'conv6', 7.3))
SELECT
    network, dataset, layer, position, classes, clusters, summed.selected, control, difference,
    bounds.low, bounds.high, top_clusters, worse, better, sign_test(worse, better) AS p_value,
    CASE WHEN classes = 'first' THEN published.selected::DOUBLE END AS published, run_id
FROM summed JOIN topmost USING (run_id, layer_id, classes) LEFT JOIN published USING (network, layer)
ORDER BY network, dataset, position, CASE classes WHEN 'first' THEN 1 WHEN 'second' THEN 2 ELSE 3 END;
