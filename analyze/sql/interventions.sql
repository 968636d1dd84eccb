-- Interventions: how many percentage points of accuracy a layer's clusters cost when disturbed, against random neurons of the same number (Table 2).
-- A cluster's first and second class are those that move it most among the ones the network can name; others is the mean over the rest. Drops are
-- means over repetitions, then over clusters; low and high bound the 95 % interval of the paired difference (normal, over clusters), p_value is its
-- two-sided sign test. published is the CLAP paper's drop of the first class. Latest run of each layer.
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
summed AS (
    SELECT network, dataset, layer.name AS layer, layer.position, classes, count(*) AS clusters, avg(selected) AS selected, avg(control) AS control,
           avg(selected - control) AS difference, stddev_samp(selected - control) / sqrt(count(*)) AS error,
           count(*) FILTER (selected > control + 1e-9) AS worse, count(*) FILTER (selected < control - 1e-9) AS better, by_place.run_id
    FROM by_place JOIN cluster USING (cluster_id) JOIN latest ON latest.run_id = by_place.run_id AND latest.layer_id = cluster.layer_id
    JOIN layer ON layer.layer_id = cluster.layer_id
    GROUP BY ALL
),
published (network, layer, selected) AS (VALUES ('clap-2022', 'fc1', 3.0), ('clap-2022', 'conv6', 7.3))
SELECT
    network, dataset, layer, position, classes, clusters, summed.selected, control, difference,
    difference - 1.959963984540054 * error AS low, difference + 1.959963984540054 * error AS high, worse, better,
    least(1, (SELECT 2 * sum(exp(lgamma(worse + better + 1) - lgamma(i + 1) - lgamma(worse + better - i + 1) - (worse + better) * ln(2)))
              FROM range(least(worse, better) + 1) AS counts (i))) AS p_value,
    CASE WHEN classes = 'first' THEN published.selected::DOUBLE END AS published, run_id
FROM summed LEFT JOIN published USING (network, layer)
ORDER BY network, dataset, position, CASE classes WHEN 'first' THEN 1 WHEN 'second' THEN 2 ELSE 3 END;
