-- Disturbed clusters one by one: size, SEntR, the two classes that move each most, and what disturbing it costs these and the others (Table 2, top).
-- Drops are percentage points of accuracy, means over repetitions; *_control those of as many random neurons. The classes are of those that the
-- network can name, others is the mean over the rest. Of each choice of parameters the latest run.
WITH latest AS (
    SELECT run_id, network, dataset, parameters FROM v_run WHERE stage = 'interventions' AND is_latest
),
dropped AS (
    SELECT latest.run_id, cluster_id, class_id, target, 100 * (any_value(readout.correct) - avg(intervention.correct)) / any_value(readout.total) AS points
    FROM intervention JOIN latest USING (run_id) JOIN readout USING (run_id, class_id) GROUP BY ALL
),
ranked AS (
    SELECT dropped.*, class.name AS class, row_number() OVER (PARTITION BY dropped.run_id, cluster_id, target ORDER BY ccav.activation DESC, class_id) AS place
    FROM dropped JOIN ccav USING (cluster_id, class_id) JOIN class USING (class_id)
)
SELECT latest.network, latest.dataset, layer.name AS layer, layer.position, partition, number, cluster.neurons, class_entropy_ratio,
       any_value(class) FILTER (place = 1) AS first, any_value(class) FILTER (place = 2) AS second,
       avg(points) FILTER (place = 1 AND target = 'cluster') AS first_drop, avg(points) FILTER (place = 2 AND target = 'cluster') AS second_drop,
       avg(points) FILTER (place > 2 AND target = 'cluster') AS others_drop, avg(points) FILTER (place = 1 AND target = 'control') AS first_control,
       avg(points) FILTER (place = 2 AND target = 'control') AS second_control, avg(points) FILTER (place > 2 AND target = 'control') AS others_control,
       cluster_id, latest.parameters, latest.run_id
FROM ranked JOIN latest USING (run_id) JOIN cluster USING (cluster_id) JOIN layer USING (layer_id)
GROUP BY ALL
ORDER BY latest.network, latest.dataset, latest.run_id, position, cluster.neurons DESC, cluster_id;
