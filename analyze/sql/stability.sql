-- Stability: which descriptions stay when only the seed changes, that is, when they are written from another part of the clips. A row per pair of runs.
-- identical is the share of neurons described in both runs whose description is the same, word by word. jaccard is the mean Jaccard index of a neuron's
-- open concepts in both, mismatched that of a neuron's with the next described neuron's of its layer: chance. above_mismatched is the share of
-- neurons whose index is above mismatched_95, the 95 % quantile of mismatched ones. *_low and *_high bound means' 95 % intervals (normal;
-- for shares Wilson's). Neurons without an open concept in either run have no index.
WITH described AS (
    SELECT run_id, code_version, dataset_sha256, network_sha256, parameters::JSON ->> 'network' AS network, parameters::JSON ->> 'dataset' AS dataset,
           coalesce(seed, (parameters::JSON ->> '$.model.seed')::BIGINT) AS seed,
           CASE WHEN json_type(parameters::JSON, '$.model') = 'OBJECT'
                THEN json_merge_patch(parameters::JSON, '{"model": {"seed": null}}'::JSON)::VARCHAR ELSE parameters END AS otherwise
    FROM run WHERE stage = 'descriptions' AND status = 'done'
),
pair AS (
    SELECT one.network, one.dataset, one.run_id AS first_run, other.run_id AS second_run, one.seed AS first_seed, other.seed AS second_seed
    FROM described AS one JOIN described AS other
        ON one.run_id < other.run_id AND one.otherwise = other.otherwise AND one.code_version = other.code_version
        AND one.dataset_sha256 = other.dataset_sha256 AND one.network_sha256 = other.network_sha256 AND one.seed IS DISTINCT FROM other.seed
),
paired_run AS (SELECT first_run AS run_id FROM pair UNION SELECT second_run FROM pair),
said AS (
    SELECT run_id, neuron_id, string_agg(text, ' ' ORDER BY position) AS description
    FROM summary_point JOIN paired_run USING (run_id) WHERE is_kept GROUP BY ALL
),
words AS (SELECT run_id, neuron_id, list(DISTINCT word) AS words FROM concept JOIN paired_run USING (run_id) GROUP BY ALL),
twice AS (
    SELECT first_run, second_run, layer_id, before.neuron_id, before.description = after.description AS same,
           coalesce(one.words, []) AS first_words, coalesce(other.words, []) AS second_words
    FROM pair JOIN said AS before ON before.run_id = first_run JOIN said AS after ON after.run_id = second_run AND after.neuron_id = before.neuron_id
    JOIN neuron ON neuron.neuron_id = before.neuron_id
    LEFT JOIN words AS one ON one.run_id = first_run AND one.neuron_id = before.neuron_id
    LEFT JOIN words AS other ON other.run_id = second_run AND other.neuron_id = before.neuron_id
),
beside AS (
    SELECT *, CASE WHEN count(*) OVER layer > 1
                   THEN coalesce(lead(second_words) OVER following, first_value(second_words) OVER following) END AS next_words
    FROM twice
    WINDOW layer AS (PARTITION BY first_run, second_run, layer_id),
           following AS (PARTITION BY first_run, second_run, layer_id ORDER BY neuron_id)
),
shared AS (
    SELECT *, len(list_intersect(first_words, second_words)) AS common, len(list_intersect(first_words, next_words)) AS next_common
    FROM beside
),
compared AS (
    SELECT first_run, second_run, layer_id, same,
           common / nullif(len(first_words) + len(second_words) - common, 0) AS jaccard,
           next_common / nullif(len(first_words) + len(next_words) - next_common, 0) AS mismatched
    FROM shared
),
limits AS (SELECT first_run, second_run, layer_id, quantile_cont(mismatched, 0.95) AS mismatched_95 FROM compared GROUP BY ALL),
summed AS (
    SELECT first_run, second_run, layer_id, count(*) AS neurons, avg(same::INTEGER) AS identical, count(jaccard) AS indices, avg(jaccard) AS jaccard,
           stddev_samp(jaccard) AS deviation, avg(mismatched) AS mismatched, stddev_samp(mismatched) AS mismatched_deviation,
           count(mismatched) AS mismatches, any_value(mismatched_95) AS mismatched_95,
           count(*) FILTER (jaccard > mismatched_95) / nullif(count(jaccard) FILTER (mismatched_95 IS NOT NULL), 0) AS above
    FROM compared JOIN limits USING (first_run, second_run, layer_id) GROUP BY ALL
)
SELECT pair.network, dataset, layer.name AS layer, layer.position, first_seed, second_seed, summed.neurons, identical,
       wilson_low(identical, summed.neurons) AS identical_low, wilson_high(identical, summed.neurons) AS identical_high,
       jaccard, jaccard - sqrt(z2 / indices) * deviation AS jaccard_low, jaccard + sqrt(z2 / indices) * deviation AS jaccard_high,
       mismatched, mismatched - sqrt(z2 / mismatches) * mismatched_deviation AS mismatched_low,
       mismatched + sqrt(z2 / mismatches) * mismatched_deviation AS mismatched_high, mismatched_95, above AS above_mismatched,
       wilson_low(above, indices) AS above_low, wilson_high(above, indices) AS above_high,
       first_run, second_run
FROM summed JOIN pair USING (first_run, second_run) JOIN layer USING (layer_id), (SELECT 1.959964 ^ 2 AS z2)
ORDER BY pair.network, dataset, first_run, second_run, layer.position;
