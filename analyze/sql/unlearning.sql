-- Unlearning: what setting the neurons dissected to a class to zero does to its logit and to the others' (Table 4), means over classes.
-- dA and dR are changes of mean logits on the class's own clips; gap is dR - dA as the paper's table has it: above 0, the class loses more than the
-- rest. low and high bound gap's 95 % interval (over classes). published_* are the paper's for AST. Latest run each.
WITH latest AS (
    SELECT run_id, parameters::JSON ->> 'network' AS network, parameters::JSON ->> 'dataset' AS dataset FROM run
    WHERE stage = 'ablations' AND status = 'done'
    QUALIFY run_id = max(run_id) OVER (PARTITION BY network, dataset)
),
by_class AS (
    SELECT run_id, class_id, chosen_by, avg(neurons) AS neurons, avg(logit_change) AS dA, avg(other_logit_change) AS dR,
           avg(correct_after) AS correct_after, any_value(correct_before) AS correct_before, any_value(total) AS total,
           avg(other_correct_after) AS other_after, any_value(other_correct_before) AS other_before, any_value(other_total) AS other_total
    FROM unlearning JOIN latest USING (run_id) GROUP BY ALL
),
published (chosen_by, neurons, dA, dR) AS (VALUES ('open', 2808, -10.73, -6.83), ('random', 3000, -13.52, -13.48), ('DB', 3317, -7.18, -7.41), ('TAB', 3317, -4.19, -4.03))
SELECT network, dataset, by_class.chosen_by, count(*) AS classes, avg(by_class.neurons) AS neurons, avg(by_class.dA) AS dA, avg(by_class.dR) AS dR,
       avg(by_class.dR - by_class.dA) AS gap,
       mean_interval(list(by_class.dR - by_class.dA ORDER BY class_id), list(class_id::VARCHAR ORDER BY class_id)).low AS low,
       mean_interval(list(by_class.dR - by_class.dA ORDER BY class_id), list(class_id::VARCHAR ORDER BY class_id)).high AS high,
       sum(correct_before) / sum(total) AS accuracy_before, sum(correct_after) / sum(total) AS accuracy_after,
       sum(other_before) / sum(other_total) AS other_accuracy_before, sum(other_after) / sum(other_total) AS other_accuracy_after,
       any_value(published.neurons) AS published_neurons, any_value(published.dA)::DOUBLE AS published_dA, any_value(published.dR)::DOUBLE AS published_dR,
       run_id
FROM by_class JOIN latest USING (run_id)
LEFT JOIN published ON published.chosen_by = regexp_replace(by_class.chosen_by, ' .*', '')
GROUP BY network, dataset, by_class.chosen_by, run_id
ORDER BY network, dataset, by_class.chosen_by;
