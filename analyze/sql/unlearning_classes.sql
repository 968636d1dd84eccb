-- Unlearning, class by class: change of the mean logit of every class, on its own clips, when the neurons dissected to one are silenced (Figure 10).
-- change is the mean over repetitions, random_change that of as many random neurons; rank 1 is the class that loses most, is_own the one to
-- unlearn. Of each choice of parameters the latest run.
WITH latest AS (
    SELECT run_id, network, dataset, parameters FROM v_run WHERE stage = 'ablations' AND is_latest
),
changed AS (
    SELECT run_id, class_id, chosen_by, read_class_id, avg(logit_change) AS change FROM unlearning_effect JOIN latest USING (run_id) GROUP BY ALL
)
SELECT network, dataset, unlearned.name AS unlearned, changed.chosen_by, read.name AS class, changed.class_id = changed.read_class_id AS is_own,
       changed.change, chance.change AS random_change,
       row_number() OVER (PARTITION BY run_id, changed.class_id, changed.chosen_by ORDER BY changed.change, read.name) AS rank,
       changed.class_id, changed.read_class_id, parameters, run_id
FROM changed JOIN latest USING (run_id)
JOIN class AS unlearned ON unlearned.class_id = changed.class_id JOIN class AS read ON read.class_id = changed.read_class_id
LEFT JOIN changed AS chance ON chance.run_id = changed.run_id AND chance.class_id = changed.class_id
  AND chance.read_class_id = changed.read_class_id AND chance.chosen_by = 'random as ' || changed.chosen_by
WHERE NOT starts_with(changed.chosen_by, 'random')
ORDER BY network, dataset, run_id, changed.chosen_by, unlearned, rank;
