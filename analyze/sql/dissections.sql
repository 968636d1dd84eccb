-- Dissections of classifiers: how often a concept set's best names for an output neuron are its own (Tables 2 and 7 of Audio Network Dissection).
-- top1 and top5 are shares of named outputs, low and high bound top1's 95 % interval (Wilson's score), cosine is between first concept and name.
-- ICL has a top5 where it was asked for five. published_* are the paper's values for AST, in its columns' order, where the method and function are the
-- same. Latest run with each method.
WITH latest AS (
    SELECT run_id, method, parameters::JSON ->> 'network' AS network, parameters::JSON ->> 'dataset' AS dataset, parameters::JSON ->> 'mode' AS mode,
           parameters::JSON ->> 'concept_set' AS concept_set, coalesce((parameters::JSON ->> 'icl_top')::INTEGER, 1) AS icl_top
    FROM run JOIN (SELECT DISTINCT run_id, method FROM closed_concept) USING (run_id) WHERE stage = 'dissections' AND status = 'done'
    QUALIFY run_id = max(run_id) OVER (PARTITION BY network, dataset, concept_set, mode, method)
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
published (method, function, top1, top5, cosine) AS (
    VALUES ('DB', 'cosine', 0.80, 0.82, 0.85), ('DB', 'cosine_cubed', 1.0, 1.0, 1.0), ('DB', 'rank_reorder', 0.86, 1.0, 0.93),
           ('DB', 'wpmi', 0.88, 1.0, 0.95), ('DB', 'soft_wpmi', 0.02, 0.10, 0.24), ('TAB', 'cosine', 0.02, 0.16, 0.23),
           ('TAB', 'cosine_cubed', 0.92, 0.98, 0.97), ('TAB', 'rank_reorder', 0.84, 0.92, 0.91), ('TAB', 'wpmi', 0.96, 1.0, 0.98),
           ('TAB', 'soft_wpmi', 0.96, 0.98, 0.98), ('ICL', 'icl', 0.72, 0.60, 0.83)
)
SELECT
    network, dataset, concept_set, mode, method, function, neurons, first / neurons AS top1,
    (first / neurons + 1.92073 / neurons - 1.95996 * sqrt(first / neurons * (1 - first / neurons) / neurons + 0.960365 / neurons / neurons)) / (1 + 3.84146 / neurons) AS low,
    (first / neurons + 1.92073 / neurons + 1.95996 * sqrt(first / neurons * (1 - first / neurons) / neurons + 0.960365 / neurons / neurons)) / (1 + 3.84146 / neurons) AS high,
    CASE WHEN method <> 'ICL' OR icl_top >= 5 THEN among_five / neurons END AS top5, summed.cosine, published.top1::DOUBLE AS published_top1, published.top5::DOUBLE AS published_top5,
    published.cosine::DOUBLE AS published_cosine, run_id
FROM summed JOIN latest USING (run_id, method) LEFT JOIN published USING (method, function)
ORDER BY network, dataset, concept_set, mode, method, list_position(['cosine', 'cosine_cubed', 'rank_reorder', 'wpmi', 'soft_wpmi'], function);
