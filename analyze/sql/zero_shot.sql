-- Zero-shot classification: how many clips of each class, and of all, an audio-text network tells rightly by prompts alone (Table 3, column ZS).
-- A row per prompt and class; class is NULL in the row over all. low and high bound the 95 % interval over clips as if each were drawn
-- by itself (Wilson's score), chance is 1 / classes, taken_for the class that its clips are most often taken for wrongly. published is the CLAP paper's
-- accuracy over all for clap-2022, by the reader of the data set (ESC-50: its program's); the paper's text says 85.2 % for Medley-solos-DB, its Table 3
-- 80.7 %. Of each choice of parameters the latest run.
WITH latest AS (SELECT run_id, network, dataset, parameters FROM v_run WHERE stage = 'zero_shot' AND is_latest),
counted AS (
    SELECT run_id, prompt, class_id, sum(clips) FILTER (class_id = told_class_id) AS correct, sum(clips) AS total,
           arg_max(told_class_id, clips) FILTER (class_id <> told_class_id) AS taken_id
    FROM zero_shot JOIN latest USING (run_id) GROUP BY ALL
),
summed AS (
    SELECT run_id, prompt, class_id, coalesce(correct, 0)::BIGINT AS correct, total::BIGINT AS total, taken_id FROM counted
    UNION ALL SELECT run_id, prompt, NULL, coalesce(sum(correct), 0)::BIGINT, sum(total)::BIGINT, NULL FROM counted GROUP BY ALL
),
asked AS (
    SELECT counted.run_id, any_value(label_set.name) AS label_set, any_value(split_part(reader, ' ', 1)) AS reader,
           any_value((SELECT count(*) FROM class AS c WHERE c.label_set_id = label_set.label_set_id)) AS classes
    FROM counted JOIN class USING (class_id) JOIN label_set USING (label_set_id) JOIN dataset USING (dataset_id) GROUP BY counted.run_id
),
published (reader, accuracy) AS (
    VALUES ('nsynth', 0.071), ('medley-solos-db', 0.807), ('gtzan', 0.307), ('pcvc', 0.045), ('speech-commands', 0.029), ('libricount', 0.202), ('esc50', 0.826)
)
SELECT network, dataset, label_set, prompt, class.name AS class, correct, total, correct / total AS accuracy,
       wilson_low(correct / total, total) AS low, wilson_high(correct / total, total) AS high,
       1 / classes AS chance, taken.name AS taken_for,
       CASE WHEN network = 'clap-2022' AND summed.class_id IS NULL THEN published.accuracy END::DOUBLE AS published, summed.class_id, parameters, run_id
FROM summed JOIN latest USING (run_id) JOIN asked USING (run_id) LEFT JOIN class USING (class_id) LEFT JOIN class AS taken ON taken.class_id = taken_id
LEFT JOIN published USING (reader)
ORDER BY network, dataset, run_id, prompt, summed.class_id NULLS FIRST;
