-- Layer probes: accuracy of k nearest neighbours and of a linear classifier on each layer, over all folds (paper's Figure 2; chance is 1 / classes).
-- low and high bound the 95 % interval (Wilson's score); published is the CLAP paper's value for ESC-50, where it gives one. Of each choice of parameters the latest run.
WITH counted AS (
    SELECT run_id, layer_id, label_set_id, method, k, sum(correct)::BIGINT AS correct, sum(total)::BIGINT AS total,
           count(DISTINCT class_id) AS classes
    FROM probe JOIN class USING (class_id)
    GROUP BY ALL
),
share AS (
    SELECT *, correct / total AS accuracy, 1.959963984540054 AS z FROM counted
),
published (network, dataset, layer, k, accuracy) AS (
    VALUES ('clap-2022', 'esc50', 'conv1', 1, 0.171), ('clap-2022', 'esc50', 'conv2', 1, 0.151), ('clap-2022', 'esc50', 'conv3', 1, 0.193),
           ('clap-2022', 'esc50', 'conv4', 1, 0.374), ('clap-2022', 'esc50', 'conv5', 1, 0.633), ('clap-2022', 'esc50', 'conv6', 100, 0.672),
           ('clap-2022', 'esc50', 'fc1', 100, 0.841)
)
SELECT
    network.name AS network, dataset.name AS dataset, label_set.name AS label_set, layer.name AS layer, layer.position, method, share.k, correct,
    total, share.accuracy,
    (share.accuracy + z * z / (2 * total) - z * sqrt(share.accuracy * (1 - share.accuracy) / total + z * z / (4.0 * total * total))) / (1 + z * z / total) AS low,
    (share.accuracy + z * z / (2 * total) + z * sqrt(share.accuracy * (1 - share.accuracy) / total + z * z / (4.0 * total * total))) / (1 + z * z / total) AS high,
    1 / classes AS chance,
    published.accuracy::DOUBLE AS published,
    v_run.parameters,
    share.run_id
FROM share
JOIN v_run ON v_run.run_id = share.run_id AND is_latest
JOIN layer USING (layer_id)
JOIN network USING (network_id)
JOIN label_set USING (label_set_id)
JOIN dataset USING (dataset_id)
LEFT JOIN published ON published.network = network.name AND published.dataset = dataset.name AND published.layer = layer.name
    AND published.k IS NOT DISTINCT FROM share.k
ORDER BY network, dataset, share.run_id, position, method, share.k;
