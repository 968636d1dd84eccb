-- Interventions by class: accuracy on the ten classes that move each disturbed cluster most, with none, the cluster or random neurons changed (Figure 5).
-- accuracy is the mean over repetitions, deviation that of the repetitions; low and high bound its 95 % interval over clips as if each were
-- drawn by itself (Wilson's score). place ranks the class in the cluster's class activation vector among those that the network can name, share is its
-- part of it. Of each choice of parameters the latest run.
WITH latest AS (
    SELECT run_id, network, dataset, parameters FROM v_run WHERE stage = 'interventions' AND is_latest
),
disturbed AS (SELECT DISTINCT run_id, cluster_id FROM intervention JOIN latest USING (run_id)),
ranked AS (
    SELECT run_id, cluster_id, class_id, correct, total, row_number() OVER (PARTITION BY run_id, cluster_id ORDER BY activation DESC, class_id) AS place,
           activation / nullif((SELECT sum(activation) FROM ccav AS a WHERE a.cluster_id = ccav.cluster_id), 0) AS share
    FROM disturbed JOIN ccav USING (cluster_id) JOIN readout USING (run_id, class_id) WHERE total > 0
),
changed AS (
    SELECT run_id, cluster_id, class_id, target, count(*) AS repetitions, avg(correct) AS correct, stddev_samp(correct) AS deviation
    FROM intervention JOIN latest USING (run_id) GROUP BY ALL
),
told AS (
    SELECT run_id, cluster_id, class_id, place, share, total, 'none' AS changed, 1 AS repetitions, correct / total AS accuracy, NULL AS deviation FROM ranked
    UNION ALL
    SELECT run_id, cluster_id, class_id, place, share, total, target, repetitions, changed.correct / total, deviation / total
    FROM ranked JOIN changed USING (run_id, cluster_id, class_id)
)
SELECT latest.network, latest.dataset, layer.name AS layer, layer.position, partition, number, cluster.neurons, place, class.name AS class, share, changed, total,
       repetitions, accuracy,
       wilson_low(accuracy, total) AS low, wilson_high(accuracy, total) AS high,
       deviation, class_id, cluster_id, parameters, latest.run_id
FROM told JOIN latest USING (run_id) JOIN cluster USING (cluster_id) JOIN layer USING (layer_id) JOIN class USING (class_id)
WHERE place <= 10
ORDER BY latest.network, latest.dataset, latest.run_id, position, cluster.neurons DESC, cluster_id, place,
         list_position(['none', 'cluster', 'control'], changed);
