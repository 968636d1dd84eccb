-- Clusters: per layer the neurons clustered, the clusters of every partition and of the chosen one, and how specific those are (Figures 4 and 5).
-- SEnt, PEnt and CEnt are means over the chosen clusters of entropies over classes, positions and channels relative to their maxima; published is
-- the number of clusters that the CLAP paper's authors chose. Of each choice of parameters the latest run.
WITH latest AS (
    SELECT run_id, dataset, parameters FROM v_run WHERE stage = 'clusters' AND is_latest
),
sizes AS (
    SELECT run_id, layer_id, partition, count(*) AS clusters, bool_or(is_chosen) AS is_chosen FROM cluster GROUP BY ALL
),
published (network, layer, clusters) AS (
    VALUES ('clap-2022', 'conv1', 227), ('clap-2022', 'conv2', 132), ('clap-2022', 'conv3', 267), ('clap-2022', 'conv4', 204),
           ('clap-2022', 'conv5', 63), ('clap-2022', 'conv6', 178), ('clap-2022', 'fc1', 211)
)
SELECT
    network.name AS network, dataset, layer.name AS layer, layer.position, layer.kind,
    clustering.neurons, clustering.dead, clustering.backend, clustering.neighbor_recall,
    (SELECT string_agg(clusters, ' ' ORDER BY partition) FROM sizes WHERE sizes.run_id = clustering.run_id AND sizes.layer_id = clustering.layer_id)
        AS partitions,
    count(cluster_id) AS chosen,
    published.clusters AS published,
    max(cluster.neurons) AS largest,
    clustering.neuron_entropy_bits,
    avg(class_entropy_bits) AS class_entropy_bits,
    avg(class_entropy_ratio) AS class_entropy_ratio,
    avg(position_entropy_ratio) AS position_entropy_ratio,
    avg(channel_entropy_ratio) AS channel_entropy_ratio,
    latest.parameters,
    clustering.run_id
FROM clustering
JOIN latest USING (run_id)
JOIN layer USING (layer_id)
JOIN network USING (network_id)
LEFT JOIN cluster ON cluster.run_id = clustering.run_id AND cluster.layer_id = clustering.layer_id AND cluster.is_chosen
LEFT JOIN published ON published.network = network.name AND published.layer = layer.name
GROUP BY ALL
ORDER BY network, dataset, clustering.run_id, position;
