-- Ratings: how well people say descriptions fit the sounds, 1 to 5, and how like their own words what was said of a neuron is (Table 3).
-- A row for each run of descriptions and what was said: see rating_similarity.said_by. Rows raters and other descriptions are what another person,
-- and what chance, reaches. Means are over neurons, of the mean over raters; *_low and *_high bound their 95 % intervals (normal).
-- Descriptions are rated, and the closed concepts that stood beside them. spread is the mean range between the raters of a neuron, alpha
-- Krippendorff's for interval data: both over the ratings of neurons with several, NULL without any. alpha is 1 for raters who agree, 0 for chance, NULL
-- when all ratings are equal. published_* are the paper's values, beside AST on ESC-50; it names no encoder, and BERTScore cannot be compared between
-- encoders.
WITH rated AS (
    SELECT run_id, said_by, neuron_id, rater, rating, count(*) OVER (PARTITION BY run_id, said_by, neuron_id) AS raters,
           var_samp(rating) OVER (PARTITION BY run_id, said_by, neuron_id) AS within
    FROM (SELECT description_run_id AS run_id, 'description' AS said_by, neuron_id, rater, rating FROM rating
          UNION ALL SELECT description_run_id, said_by, neuron_id, rater, rating FROM concept_rating)
),
agreement AS ( -- Krippendorff's observed disagreement is twice the mean over ratings of the variance within neurons, the expected twice that of all
    SELECT run_id, said_by, 1 - avg(within) / nullif(var_samp(rating), 0) AS alpha FROM rated WHERE raters > 1 GROUP BY ALL
),
by_neuron AS (
    SELECT run_id, said_by, neuron_id, avg(rating) AS rating, max(rating) - min(rating) AS spread, any_value(raters) AS raters
    FROM rated GROUP BY ALL
),
summed AS (
    SELECT run_id, said_by, count(*) AS neurons, avg(rating) AS rating,
           1.959964 * stddev_samp(rating) / sqrt(count(*)) AS rating_error, avg(spread) FILTER (raters > 1) AS spread
    FROM by_neuron GROUP BY ALL
),
alike AS (
    SELECT run_id, said_by, count(*) AS compared, avg(cosine) AS cosine, 1.959964 * stddev_samp(cosine) / sqrt(count(*)) AS cosine_error,
           avg(bert_score) AS bert_score, 1.959964 * stddev_samp(bert_score) / sqrt(count(bert_score)) AS bert_score_error
    FROM (SELECT description_run_id AS run_id, neuron_id, said_by, avg(cosine) AS cosine, avg(bert_score) AS bert_score
          FROM rating_similarity GROUP BY ALL)
    GROUP BY ALL
),
published (method, rating, cosine, bert_score) AS (
    VALUES ('TAB', 2.73, 0.24, 0.42), ('DB', 3.24, 0.57, 0.45), ('description', 3.49, 0.72, 0.46)
)
SELECT parameters::JSON ->> 'network' AS network, parameters::JSON ->> 'dataset' AS dataset, said_by, neurons,
       (SELECT count(DISTINCT rater) FROM rating WHERE description_run_id = run_id) AS raters,
       summed.rating, summed.rating - rating_error AS rating_low, summed.rating + rating_error AS rating_high, spread,
       alpha, coalesce(compared, 0) AS compared,
       alike.cosine, alike.cosine - cosine_error AS cosine_low, alike.cosine + cosine_error AS cosine_high,
       alike.bert_score, alike.bert_score - bert_score_error AS bert_score_low, alike.bert_score + bert_score_error AS bert_score_high,
       published.rating::DOUBLE AS published_rating, published.cosine::DOUBLE AS published_cosine,
       published.bert_score::DOUBLE AS published_bert_score, (SELECT parameters FROM v_run WHERE v_run.run_id = run.run_id) AS parameters, run_id
FROM summed FULL JOIN alike USING (run_id, said_by) JOIN run USING (run_id) LEFT JOIN agreement USING (run_id, said_by)
LEFT JOIN v_published_kind USING (run_id) LEFT JOIN published ON method = split_part(said_by, ' ', 1) AND kind = 'AST'
ORDER BY network, dataset, run_id, list_position(['description', 'raters', 'other descriptions'], said_by) NULLS LAST, said_by;
