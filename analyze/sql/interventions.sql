-- Interventions: how many percentage points of accuracy a layer's clusters cost when disturbed, against random neurons of the same number (Table 2).
-- A cluster's first and second class are those that move it most among the ones the network can name; others is the mean over the rest. Drops are
-- means over repetitions, then over clusters; low and high bound the 95 % interval of the paired difference, p_value is its two-sided sign test: clusters
-- that lie in one another hold the same neurons, so both go by the top-level ones of those disturbed (top_clusters; worse and better count them), see
-- analyze/intervals.py. Early layers are the first half of those clustered, of an odd number the smaller (conv1 to conv3 of the CLAP paper's seven),
-- later layers the rest. size and class_entropy_ratio (SEntR) are means over the clusters; published_* are the CLAP paper's drops on ESC-50.
-- Of each choice of parameters the latest run.
WITH latest AS (
    SELECT run_id, network, dataset, parameters FROM v_run WHERE stage = 'interventions' AND is_latest
),
dropped AS (
    SELECT run_id, cluster_id, class_id, target, 100 * (any_value(readout.correct) - avg(intervention.correct)) / any_value(readout.total) AS points
    FROM intervention JOIN latest USING (run_id) JOIN readout USING (run_id, class_id)
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
    SELECT seen.run_id, cluster_id, any_value(neurons) AS neurons, min(neuron_id) AS neuron_id
    FROM (SELECT DISTINCT run_id, cluster_id FROM by_place) AS seen JOIN cluster USING (cluster_id) JOIN cluster_member USING (cluster_id)
    GROUP BY ALL
),
nested AS (
    SELECT inside.run_id, inside.cluster_id, arg_max(around.cluster_id, around.neurons) AS top_id
    FROM disturbed AS inside JOIN cluster_member USING (neuron_id)
    JOIN disturbed AS around ON around.run_id = inside.run_id AND around.cluster_id = cluster_member.cluster_id
    GROUP BY ALL
),
ordered AS (
    SELECT run_id AS cluster_run, layer_id, layer.name AS layer, layer.position,
           2 * row_number() OVER (PARTITION BY run_id ORDER BY layer.position) <= count(*) OVER (PARTITION BY run_id) AS is_early
    FROM (SELECT DISTINCT run_id, layer_id FROM cluster) JOIN layer USING (layer_id)
),
grouped AS (
    SELECT cluster_run, layer_id, layer, position FROM ordered
    UNION ALL SELECT cluster_run, layer_id, CASE WHEN is_early THEN 'early layers' ELSE 'later layers' END, NULL FROM ordered
    UNION ALL SELECT cluster_run, layer_id, 'all layers', NULL FROM ordered
),
placed AS (
    SELECT by_place.*, selected - control AS difference, top_id, cluster.neurons, class_entropy_ratio, cluster.layer_id, grouped.layer, grouped.position
    FROM by_place JOIN nested USING (run_id, cluster_id) JOIN cluster USING (cluster_id)
    JOIN grouped ON grouped.layer_id = cluster.layer_id AND grouped.cluster_run = cluster.run_id
),
topmost AS (
    SELECT run_id, layer, position, classes, count(*) AS top_clusters, count(*) FILTER (difference > 1e-9) AS worse, count(*) FILTER (difference < -1e-9) AS better
    FROM (SELECT run_id, layer, position, classes, top_id, avg(difference) AS difference FROM placed GROUP BY ALL) GROUP BY ALL
),
summed AS (
    SELECT run_id, layer, position, classes, count(*) AS clusters, avg(neurons) AS size, avg(class_entropy_ratio) AS class_entropy_ratio,
           avg(selected) AS selected, avg(control) AS control, avg(difference) AS difference,
           mean_interval(list(difference ORDER BY cluster_id), list(top_id::VARCHAR ORDER BY cluster_id)) AS bounds, count(DISTINCT layer_id) AS layers
    FROM placed GROUP BY ALL
),
published (layer, first, second, others, first_control, second_control, others_control) AS (
    VALUES ('fc1', 3.0, 0.6, 0.1, 0.2, 0.1, 0.2), ('conv6', 7.3, 2.6, 0.3, 0.5, 1.1, 0.9), ('conv5', 0.9, 0.6, 0.1, 0.0, 0.1, 0.1),
           ('conv4', 0.5, 0.7, 0.0, 0.0, 0.1, 0.0), ('early layers', 0.2, 0.2, 0.1, 0.0, 0.0, 0.0), ('later layers', 3.1, 1.1, 0.1, 0.2, 0.4, 0.3),
           ('all layers', 2.3, 0.9, 0.1, 0.1, 0.3, 0.2)
)
SELECT
    network, dataset, layer, summed.position, classes, clusters, size, class_entropy_ratio, selected, control, difference,
    bounds.low, bounds.high, top_clusters, worse, better, sign_test(worse, better) AS p_value,
    CASE WHEN is_theirs THEN CASE classes WHEN 'first' THEN published.first WHEN 'second' THEN published.second ELSE others END END::DOUBLE AS published,
    CASE WHEN is_theirs THEN CASE classes WHEN 'first' THEN first_control WHEN 'second' THEN second_control ELSE others_control END END::DOUBLE
        AS published_control,
    parameters, run_id
FROM summed JOIN topmost USING (run_id, layer, classes)
JOIN (SELECT *, network = 'clap-2022' AND dataset = 'esc50' AS is_theirs FROM latest) AS latest USING (run_id) LEFT JOIN published USING (layer)
WHERE summed.position IS NOT DISTINCT FROM topmost.position
QUALIFY summed.position IS NOT NULL OR max(layers) OVER (PARTITION BY run_id) > 1
ORDER BY network, dataset, run_id, summed.position NULLS LAST, list_position(['early layers', 'later layers', 'all layers'], layer),
         list_position(['first', 'second', 'others'], classes);
