-- Dissections of classifiers: how often a concept set's best names for an output neuron are its own (Tables 2 and 7 of Audio Network Dissection).
-- top1 and top5 are shares of named outputs, low and high bound top1's 95 % interval (Wilson's score), cosine is between first concept and name.
-- ICL has a top5 where it was asked for five. published_* stand beside the paper's networks (AST, BEATs) on ESC-50 with its classes as concepts, in
-- its columns' order, where the method and function are the same. Of each choice of parameters the latest run.
WITH latest AS (
    SELECT run_id, method, network, dataset, v_run.parameters, run.parameters::JSON ->> 'mode' AS mode, run.parameters::JSON ->> 'concept_set' AS concept_set,
           coalesce((run.parameters::JSON ->> 'icl_top')::INTEGER, 1) AS icl_top
    FROM run JOIN v_run USING (run_id) JOIN (SELECT DISTINCT run_id, method FROM closed_concept) USING (run_id)
    WHERE run.stage = 'dissections' AND is_latest
),
outputs AS (
    SELECT run_id, method, function, neuron_id, bool_or(rank = 1 AND is_own) AS is_first, bool_or(rank <= 5 AND is_own) AS is_among_five,
           any_value(name_cosine) FILTER (rank = 1) AS name_cosine
    FROM (SELECT *, lower(replace(neuron.name, '_', ' ')) = lower(replace(concept, '_', ' ')) AS is_own
          FROM closed_concept JOIN latest USING (run_id, method) JOIN neuron USING (neuron_id) WHERE neuron.name IS NOT NULL)
    GROUP BY ALL
),
named AS (
    SELECT run_id, count(*) AS neurons FROM (SELECT DISTINCT run_id, layer_id FROM closed_concept JOIN neuron USING (neuron_id)) AS seen
    JOIN neuron USING (layer_id) WHERE neuron.name IS NOT NULL GROUP BY ALL
),
summed AS (
    SELECT run_id, method, function, neurons, count(*) FILTER (is_first) AS first, count(*) FILTER (is_among_five) AS among_five,
           avg(name_cosine) AS cosine
    FROM outputs JOIN named USING (run_id) GROUP BY ALL
),
published (kind, method, function, top1, top5, cosine) AS (
    VALUES ('AST', 'ICL', 'icl', 0.72, 0.60, 0.83), ('AST', 'TAB', 'cosine', 0.02, 0.16, 0.23), ('AST', 'TAB', 'cosine_cubed', 0.92, 0.98, 0.97),
           ('AST', 'TAB', 'rank_reorder', 0.84, 0.92, 0.91), ('AST', 'TAB', 'wpmi', 0.96, 1.00, 0.98), ('AST', 'TAB', 'soft_wpmi', 0.96, 0.98, 0.98),
           ('AST', 'DB', 'cosine', 0.80, 0.82, 0.85), ('AST', 'DB', 'cosine_cubed', 1.00, 1.00, 1.00), ('AST', 'DB', 'rank_reorder', 0.86, 1.00, 0.93),
           ('AST', 'DB', 'wpmi', 0.88, 1.00, 0.95), ('AST', 'DB', 'soft_wpmi', 0.02, 0.10, 0.24), ('BEATs-finetuned', 'ICL', 'icl', 0.52, 0.56, 0.68),
           ('BEATs-finetuned', 'TAB', 'cosine', 0.50, 0.80, 0.64), ('BEATs-finetuned', 'TAB', 'cosine_cubed', 0.66, 0.94, 0.77), ('BEATs-finetuned', 'TAB', 'rank_reorder', 0.52, 0.80, 0.67),
           ('BEATs-finetuned', 'TAB', 'wpmi', 0.68, 0.94, 0.77), ('BEATs-finetuned', 'TAB', 'soft_wpmi', 0.74, 0.92, 0.82), ('BEATs-finetuned', 'DB', 'cosine', 0.76, 1.00, 0.83),
           ('BEATs-finetuned', 'DB', 'cosine_cubed', 0.74, 0.96, 0.82), ('BEATs-finetuned', 'DB', 'rank_reorder', 0.56, 0.90, 0.71), ('BEATs-finetuned', 'DB', 'wpmi', 0.62, 0.94, 0.75),
           ('BEATs-finetuned', 'DB', 'soft_wpmi', 0.02, 0.10, 0.23), ('BEATs-frozen', 'ICL', 'icl', 0.16, 0.16, 0.37), ('BEATs-frozen', 'TAB', 'cosine', 0.14, 0.34, 0.35),
           ('BEATs-frozen', 'TAB', 'cosine_cubed', 0.38, 0.76, 0.56), ('BEATs-frozen', 'TAB', 'rank_reorder', 0.18, 0.48, 0.42), ('BEATs-frozen', 'TAB', 'wpmi', 0.46, 0.72, 0.60),
           ('BEATs-frozen', 'TAB', 'soft_wpmi', 0.42, 0.80, 0.60), ('BEATs-frozen', 'DB', 'cosine', 0.58, 0.82, 0.69), ('BEATs-frozen', 'DB', 'cosine_cubed', 0.46, 0.82, 0.62),
           ('BEATs-frozen', 'DB', 'rank_reorder', 0.36, 0.72, 0.56), ('BEATs-frozen', 'DB', 'wpmi', 0.34, 0.68, 0.53), ('BEATs-frozen', 'DB', 'soft_wpmi', 0.02, 0.10, 0.23)
)
SELECT
    network, dataset, concept_set, mode, summed.method, summed.function, neurons, first / neurons AS top1,
    wilson_low(first / neurons, neurons) AS low, wilson_high(first / neurons, neurons) AS high,
    CASE WHEN summed.method <> 'ICL' OR icl_top >= 5 THEN among_five / neurons END AS top5, summed.cosine, published.top1::DOUBLE AS published_top1, published.top5::DOUBLE AS published_top5,
    published.cosine::DOUBLE AS published_cosine, parameters, run_id
FROM summed JOIN latest USING (run_id, method) LEFT JOIN v_published_kind USING (run_id)
LEFT JOIN published ON published.kind = v_published_kind.kind AND concept_set IN ('esc50', 'classes') AND published.method = summed.method
  AND published.function = summed.function
ORDER BY network, dataset, concept_set, mode, run_id, summed.method,
         list_position(['cosine', 'cosine_cubed', 'rank_reorder', 'wpmi', 'soft_wpmi'], summed.function);
