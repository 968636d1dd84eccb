-- Classes through the layers: for every class each layer's chosen cluster that owes it the greatest share of its activation (Figures 4 and 9 to 11).
-- share is the class's part of the cluster's class activation vector (CCAV), alike the part of one class if all were alike, rank its place in it (1: the
-- cluster peaks at it); next the class that moves the cluster most beside it. Layers with negative values have no shares. Of each choice of parameters
-- the latest run.
WITH latest AS (SELECT run_id, network, dataset, parameters FROM v_run WHERE stage = 'clusters' AND is_latest),
shared AS (
    SELECT run_id, layer_id, cluster_id, partition, number, neurons, class_entropy_ratio, class_id, activation,
           activation / nullif(sum(activation) OVER (PARTITION BY cluster_id), 0) AS share, min(activation) OVER (PARTITION BY cluster_id) AS least,
           row_number() OVER (PARTITION BY cluster_id ORDER BY activation DESC, class_id) AS rank, count(*) OVER (PARTITION BY cluster_id) AS classes
    FROM cluster JOIN latest USING (run_id) JOIN ccav USING (cluster_id) WHERE is_chosen
),
best AS (
    SELECT * FROM shared WHERE least >= 0 AND share IS NOT NULL
    QUALIFY row_number() OVER (PARTITION BY run_id, layer_id, class_id ORDER BY share DESC, number) = 1
)
SELECT network, dataset, class.name AS class, layer.name AS layer, layer.position, best.partition, best.number, best.neurons, best.class_entropy_ratio,
       best.share, 1 / best.classes AS alike, best.rank, other.name AS next, beside.share AS next_share, best.cluster_id, best.class_id, parameters, best.run_id
FROM best JOIN latest USING (run_id) JOIN layer USING (layer_id) JOIN class USING (class_id)
LEFT JOIN shared AS beside ON beside.cluster_id = best.cluster_id AND beside.rank = CASE best.rank WHEN 1 THEN 2 ELSE 1 END
LEFT JOIN class AS other ON other.class_id = beside.class_id
ORDER BY network, dataset, best.run_id, best.class_id, layer.position;
