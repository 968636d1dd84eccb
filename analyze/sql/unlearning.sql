-- Unlearning: what setting the neurons dissected to a class to zero does to its logit and to the others' (Table 4), means over classes.
-- dA and dR are changes of mean logits on the class's own clips; gap is dR - dA as the paper's table has it: above 0, the class loses more than the
-- rest. low and high bound gap's 95 % interval (over classes). random_gap is the same for as many random neurons of each class, above_random
-- the mean of the classes' differences with its interval. published_* stand beside the paper's networks on ESC-50. Of each choice of parameters the
-- latest run.
WITH latest AS (
    SELECT run_id, kind, network, dataset, parameters FROM v_run LEFT JOIN v_published_kind USING (run_id) WHERE stage = 'ablations' AND is_latest
),
by_class AS (
    SELECT run_id, class_id, chosen_by, avg(neurons) AS neurons, avg(logit_change) AS dA, avg(other_logit_change) AS dR, dR - dA AS gap,
           avg(correct_after) AS correct_after, any_value(correct_before) AS correct_before, any_value(total) AS total,
           avg(other_correct_after) AS other_after, any_value(other_correct_before) AS other_before, any_value(other_total) AS other_total
    FROM unlearning JOIN latest USING (run_id) GROUP BY ALL
),
beside AS (
    SELECT by_class.*, chance.gap AS chance_gap
    FROM by_class LEFT JOIN by_class AS chance
      ON chance.run_id = by_class.run_id AND chance.class_id = by_class.class_id AND chance.chosen_by = 'random as ' || by_class.chosen_by
),
bounded AS (
    SELECT run_id, chosen_by, mean_interval(list(gap ORDER BY class_id) FILTER (gap IS NOT NULL),
                                            list(class_id::VARCHAR ORDER BY class_id) FILTER (gap IS NOT NULL)) AS gap_bounds,
           mean_interval(list(gap - chance_gap ORDER BY class_id) FILTER (gap - chance_gap IS NOT NULL),
                         list(class_id::VARCHAR ORDER BY class_id) FILTER (gap - chance_gap IS NOT NULL)) AS above_bounds
    FROM beside GROUP BY ALL
),
published (kind, method, neurons, dA, dR) AS (
    VALUES ('AST', 'random', 3000, -13.52, -13.48), ('AST', 'TAB', 3317, -4.19, -4.03), ('AST', 'DB', 3317, -7.18, -7.41),
           ('AST', 'open', 2808, -10.73, -6.83), ('BEATs-finetuned', 'random', 3000, -0.55, -0.55), ('BEATs-finetuned', 'TAB', 2765, -0.50, -0.49),
           ('BEATs-finetuned', 'DB', 2765, -0.53, -0.57), ('BEATs-finetuned', 'open', 2677, -2.00, -0.51),
           ('BEATs-frozen', 'random', 3000, -0.72, -0.73), ('BEATs-frozen', 'TAB', 2765, -0.42, -0.51), ('BEATs-frozen', 'DB', 2765, -0.48, -0.58),
           ('BEATs-frozen', 'open', 2906, -0.65, -0.55)
)
SELECT network, dataset, chosen_by, count(*) AS classes, avg(beside.neurons) AS neurons, avg(beside.dA) AS dA, avg(beside.dR) AS dR,
       avg(gap) AS gap, gap_bounds.low AS low, gap_bounds.high AS high,
       avg(chance_gap) AS random_gap, avg(gap - chance_gap) AS above_random, above_bounds.low AS above_random_low, above_bounds.high AS above_random_high,
       sum(correct_before) / sum(total) AS accuracy_before, sum(correct_after) / sum(total) AS accuracy_after,
       sum(other_before) / sum(other_total) AS other_accuracy_before, sum(other_after) / sum(other_total) AS other_accuracy_after,
       any_value(published.neurons) AS published_neurons, any_value(published.dA)::DOUBLE AS published_dA, any_value(published.dR)::DOUBLE AS published_dR,
       parameters, run_id
FROM beside JOIN bounded USING (run_id, chosen_by) JOIN latest USING (run_id)
LEFT JOIN published ON published.kind = latest.kind AND method = split_part(chosen_by, ' ', 1)
GROUP BY network, dataset, chosen_by, gap_bounds, above_bounds, parameters, run_id
ORDER BY network, dataset, run_id, starts_with(chosen_by, 'random'), chosen_by;
