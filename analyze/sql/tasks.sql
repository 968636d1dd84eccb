-- Tasks: each data set's best layer and number of neighbours, beside zero-shot classification and chance (Table 3 of the CLAP paper, and Table 1).
-- The layer and k of highest accuracy, the first layer and the least k of equals; chosen on the clips they are counted on, as published, which flatters
-- them a little. low and high bound 95 % intervals over clips as if each were drawn by itself (Wilson's score). zero_shot is the accuracy
-- by the best of the latest run's prompts. published_* are the CLAP paper's for clap-2022, by the reader of the data set. Of each choice of parameters
-- the latest run of stage probes.
WITH latest AS (SELECT run_id, network, dataset, parameters FROM v_run WHERE stage = 'probes' AND is_latest),
counted AS (
    SELECT run_id, layer_id, label_set_id, k, sum(correct)::BIGINT AS correct, sum(total)::BIGINT AS total, count(DISTINCT class_id) AS classes
    FROM probe JOIN latest USING (run_id) JOIN class USING (class_id) WHERE method = 'knn' GROUP BY ALL
),
best AS (
    SELECT counted.*, correct / total AS share, layer.name AS layer, layer.position FROM counted JOIN layer USING (layer_id)
    QUALIFY row_number() OVER (PARTITION BY run_id ORDER BY correct / total DESC, layer.position, k) = 1
),
told AS (
    SELECT network, run_id, label_set_id, prompt, coalesce(sum(clips) FILTER (class_id = told_class_id), 0) / sum(clips) AS accuracy
    FROM zero_shot JOIN v_run USING (run_id) JOIN class USING (class_id) WHERE is_latest GROUP BY ALL
),
prompted AS (
    SELECT * FROM told QUALIFY row_number() OVER (PARTITION BY network, label_set_id ORDER BY run_id DESC, accuracy DESC, prompt) = 1
),
published (reader, k, layer, knn, zero_shot) AS (
    VALUES ('nsynth', 1, 'conv1', 0.469, 0.071), ('medley-solos-db', 1, 'fc1', 0.982, 0.807), ('gtzan', 1, 'fc1', 0.754, 0.307),
           ('pcvc', 7, 'conv3', 0.308, 0.045), ('speech-commands', 1, 'conv4', 0.4, 0.029), ('libricount', 20, 'fc1', 0.525, 0.202)
)
SELECT latest.network, latest.dataset, label_set.name AS label_set, best.total AS clips, classes, best.k, best.layer, share AS knn,
       wilson_low(share, best.total) AS low, wilson_high(share, best.total) AS high,
       prompt, prompted.accuracy AS zero_shot, 1 / classes AS chance, published.k AS published_k, published.layer AS published_layer,
       published.knn::DOUBLE AS published_knn, published.zero_shot::DOUBLE AS published_zero_shot, parameters, latest.run_id
FROM best JOIN latest USING (run_id) JOIN label_set USING (label_set_id) JOIN dataset USING (dataset_id)
LEFT JOIN prompted ON prompted.network = latest.network AND prompted.label_set_id = best.label_set_id
LEFT JOIN published ON published.reader = split_part(dataset.reader, ' ', 1) AND latest.network = 'clap-2022'
ORDER BY latest.network, latest.dataset, latest.run_id;
