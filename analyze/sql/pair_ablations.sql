-- Ablations of the neurons specific to either of two classes, as published for AAPE: clips still told rightly without them, against random neurons.
-- clips says whose: those of the first class, of the second, of all others, of all. random is the mean over draws of as many others of the same layers,
-- random_lowest and random_highest bound the draws; next silences the unit after each, which the released program calls random. Drops are in percentage
-- points of these clips. p_value is the share of the draws, the specific neurons counted with them, that leave as few (one-sided): it takes 19 draws to
-- reach 0.05. Of each choice of parameters the latest run.
WITH latest AS (
    SELECT DISTINCT run_id, network, dataset, label_set.name AS label_set, measure, run.parameters::JSON ->> 'readout' AS readout, v_run.parameters
    FROM (SELECT DISTINCT run_id, measure, first_class_id FROM pair_ablation) JOIN run USING (run_id) JOIN v_run USING (run_id)
    JOIN class ON class_id = first_class_id JOIN label_set USING (label_set_id)
    WHERE is_latest
),
read AS (
    SELECT p.run_id, measure, first_class_id, second_class_id, target, repetition, neurons, p.correct, readout.correct AS undisturbed, total,
           unnest([CASE read_class_id WHEN first_class_id THEN 1 WHEN second_class_id THEN 2 ELSE 3 END, 4]) AS part
    FROM pair_ablation AS p JOIN latest USING (run_id, measure) JOIN readout ON readout.run_id = p.run_id AND class_id = read_class_id
),
counted AS (
    SELECT run_id, measure, first_class_id, second_class_id, part, target, repetition, any_value(neurons) AS neurons, sum(correct)::BIGINT AS correct,
           sum(undisturbed)::BIGINT AS undisturbed, sum(total)::BIGINT AS total
    FROM read GROUP BY ALL
),
by_pair AS (
    SELECT run_id, measure, first_class_id, second_class_id, part, any_value(neurons) AS neurons, any_value(total) AS total,
           any_value(undisturbed) AS undisturbed, any_value(correct) FILTER (target = 'specific') AS specific,
           any_value(correct) FILTER (target = 'next') AS next, list(correct) FILTER (target = 'random') AS draws
    FROM counted GROUP BY ALL
)
SELECT network, dataset, label_set, measure, latest.readout, a.name AS first, b.name AS second, [a.name, b.name, 'others', 'all'][part] AS clips, neurons,
       total, undisturbed, specific, next, list_avg(draws) AS random, list_min(draws) AS random_lowest, list_max(draws) AS random_highest,
       len(draws) AS draws, 100 * (undisturbed - specific) / total AS specific_drop, 100 * (undisturbed - next) / total AS next_drop,
       100 * (undisturbed - random) / total AS random_drop, (1 + len(list_filter(draws, lambda drawn: drawn <= specific))) / (1 + len(draws)) AS p_value,
       first_class_id, second_class_id, parameters, run_id
FROM by_pair JOIN latest USING (run_id, measure) JOIN class AS a ON a.class_id = first_class_id JOIN class AS b ON b.class_id = second_class_id
ORDER BY network, dataset, label_set, measure, readout, run_id, first_class_id, second_class_id, part;
