-- Data sets: clips, failures, seconds of sound, classes per label set.
SELECT
    dataset.name AS dataset,
    dataset.version,
    reader,
    count(clip_id) AS clips,
    (SELECT count(*) FROM failure WHERE failure.run_id = dataset.run_id) AS failures,
    sum(duration_s) AS duration_s,
    min(duration_s) AS shortest_s,
    max(duration_s) AS longest_s,
    count(*) FILTER (channels > 1) AS multichannel_clips,
    count(DISTINCT sample_rate_hz) AS sample_rates,
    count(DISTINCT fold) AS folds,
    (SELECT string_agg(name || ' (' || classes || ')', ', ' ORDER BY label_set_id)
     FROM (SELECT label_set_id, label_set.name, count(class_id) AS classes
           FROM label_set LEFT JOIN class USING (label_set_id)
           WHERE label_set.dataset_id = dataset.dataset_id GROUP BY ALL)) AS label_sets
FROM dataset LEFT JOIN clip USING (dataset_id)
GROUP BY dataset_id, dataset.name, dataset.version, reader, dataset.run_id
ORDER BY dataset, dataset.version;
