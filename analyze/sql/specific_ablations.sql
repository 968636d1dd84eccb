-- Ablations of specific neurons: percentage points of accuracy lost without the neurons specific to a class, against random neurons of the same layers.
-- clips: own are those of the class whose neurons are silenced, others all the rest. total, undisturbed, specific and random (mean over draws) are clip
-- counts summed over the silenced classes, so that a clip of others counts once for each. Drops are means over classes; low and high bound the 95 %
-- interval of the paired difference (over classes), p_value is its two-sided sign test. Of each choice of parameters the latest run.
WITH latest AS (
    SELECT DISTINCT run_id, network, dataset, label_set.name AS label_set, measure, run.parameters::JSON ->> 'readout' AS readout, v_run.parameters
    FROM (SELECT DISTINCT run_id, measure, class_id FROM specific_ablation) JOIN run USING (run_id) JOIN v_run USING (run_id) JOIN class USING (class_id)
    JOIN label_set USING (label_set_id)
    WHERE is_latest
),
counted AS (
    SELECT run_id, measure, specific_ablation.class_id, CASE WHEN specific_ablation.class_id = read_class_id THEN 'own' ELSE 'others' END AS clips,
           target, repetition, any_value(neurons) AS neurons, sum(specific_ablation.correct)::BIGINT AS correct,
           sum(readout.correct)::BIGINT AS undisturbed, sum(total)::BIGINT AS total
    FROM specific_ablation JOIN latest USING (run_id, measure) JOIN readout ON readout.run_id = latest.run_id AND readout.class_id = read_class_id
    GROUP BY ALL
),
by_class AS (
    SELECT run_id, measure, class_id, clips, any_value(neurons) AS neurons, any_value(total) AS total, any_value(undisturbed) AS undisturbed,
           any_value(correct) FILTER (target = 'specific') AS specific, avg(correct) FILTER (target = 'random') AS random,
           count(*) FILTER (target = 'random') AS draws
    FROM counted GROUP BY ALL
),
summed AS (
    SELECT run_id, measure, clips, count(*) AS classes, avg(neurons) AS neurons, max(draws) AS draws, sum(total)::BIGINT AS total,
           sum(undisturbed)::BIGINT AS undisturbed, sum(specific)::BIGINT AS specific, sum(random) AS random,
           avg(100 * (undisturbed - specific) / total) AS specific_drop, avg(100 * (undisturbed - random) / total) AS random_drop,
           avg(100 * (random - specific) / total) AS difference,
           mean_interval(list(100 * (random - specific) / total ORDER BY class_id), list(class_id::VARCHAR ORDER BY class_id)) AS bounds,
           count(*) FILTER (specific < random - 1e-9) AS worse, count(*) FILTER (specific > random + 1e-9) AS better
    FROM by_class GROUP BY ALL
)
SELECT
    network, dataset, label_set, measure, readout, clips, classes, neurons, draws, total, undisturbed, specific, random, specific_drop, random_drop,
    difference, bounds.low, bounds.high, worse, better, sign_test(worse, better) AS p_value,
    parameters, run_id
FROM summed JOIN latest USING (run_id, measure)
ORDER BY network, dataset, label_set, measure, readout, run_id, clips DESC;
