-- Ablations of specific neurons by class: clips of the class itself (own) and of all others that are still told rightly without its neurons.
-- specific is the count without the class's specific neurons, random the mean over draws of as many others of the same layers; drops are in percentage
-- points of these clips. random_lowest and random_highest bound the counts of the draws; p_value is the share of the draws, the
-- specific neurons counted with them, that leave as few: it takes 19 draws to reach 0.05. Of each choice of parameters the latest run.
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
           min(correct) FILTER (target = 'random') AS random_lowest, max(correct) FILTER (target = 'random') AS random_highest,
           count(*) FILTER (target = 'random') AS draws, list(correct) FILTER (target = 'random') AS drawn
    FROM counted GROUP BY ALL
)
SELECT network, dataset, label_set, measure, latest.readout, class.name AS class, clips, neurons, total, undisturbed, specific, random, random_lowest,
       random_highest, draws, 100 * (undisturbed - specific) / total AS specific_drop, 100 * (undisturbed - random) / total AS random_drop,
       specific_drop - random_drop AS difference, (1 + len(list_filter(drawn, lambda correct: correct <= specific))) / (1 + draws) AS p_value, class_id,
       parameters, run_id
FROM by_class JOIN latest USING (run_id, measure) JOIN class USING (class_id)
ORDER BY network, dataset, label_set, measure, readout, run_id, class_id, clips DESC;
