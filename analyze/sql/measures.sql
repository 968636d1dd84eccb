-- Measures of specificity: how far each two agree. spearman and top_jaccard are over all pairs of neurons and classes, as measure_agreement has them.
-- specific_jaccard is the Jaccard index of the pairs that the two call specific, of first_specific and second_specific pairs; expected is what as many
-- pairs drawn by chance would have. LAPE is a choice of pairs without a value of its own, probability a value without a choice. Of each choice of parameters the latest run.
WITH latest AS (
    SELECT run_id, network, dataset, parameters FROM v_run WHERE stage = 'specificity' AND is_latest
),
chosen AS (SELECT run_id, label_set_id, measure, neuron_id, class_id FROM specific_neuron JOIN latest USING (run_id) JOIN class USING (class_id)),
sizes AS (SELECT run_id, label_set_id, measure, count(*) AS pairs FROM chosen GROUP BY ALL),
possible AS (
    SELECT run_id, label_set_id, neurons * classes AS pairs
    FROM (SELECT run_id, label_set_id, count(*) AS neurons FROM specificity JOIN latest USING (run_id) GROUP BY ALL)
    JOIN (SELECT label_set_id, count(*) AS classes FROM class GROUP BY ALL) USING (label_set_id)
),
agreed AS (
    SELECT a.run_id, a.label_set_id, a.measure AS first, b.measure AS second, count(*) AS shared
    FROM chosen AS a JOIN chosen AS b USING (run_id, label_set_id, neuron_id, class_id) GROUP BY ALL
),
choices AS (
    SELECT a.run_id, a.label_set_id, a.measure AS first, b.measure AS second, a.pairs AS first_specific, b.pairs AS second_specific,
           coalesce(shared, 0) / (a.pairs + b.pairs - coalesce(shared, 0)) AS specific_jaccard,
           a.pairs * b.pairs / possible.pairs / (a.pairs + b.pairs - a.pairs * b.pairs / possible.pairs) AS expected
    FROM sizes AS a JOIN sizes AS b USING (run_id, label_set_id) JOIN possible USING (run_id, label_set_id)
    LEFT JOIN agreed ON agreed.run_id = a.run_id AND agreed.label_set_id = a.label_set_id AND agreed.first = a.measure AND agreed.second = b.measure
),
-- A pair of measures stands as measure_agreement has it; those of LAPE, which is not there, once.
joined AS (
    SELECT * FROM measure_agreement JOIN latest USING (run_id) LEFT JOIN choices USING (run_id, label_set_id, first, second)
    UNION ALL BY NAME
    SELECT * FROM choices JOIN latest USING (run_id) WHERE second = 'lape' AND first <> 'lape'
)
SELECT network, dataset, label_set.name AS label_set, first, second, pairs, spearman, top_jaccard, first_specific, second_specific, specific_jaccard, expected,
       parameters, run_id
FROM joined JOIN label_set USING (label_set_id)
ORDER BY network, dataset, run_id, label_set, spearman DESC NULLS LAST, specific_jaccard DESC, first, second;
