-- Ratings: how well people say descriptions fit the sounds, 1 to 5 (Table 3), per run of descriptions, with the raters' agreement.
-- low and high bound the mean's 95 % interval (normal, over neurons); spread is the mean over neurons of the range between raters, NULL for one rater.
WITH by_neuron AS (
    SELECT description_run_id AS run_id, neuron_id, avg(rating) AS mean, count(*) AS raters, max(rating) - min(rating) AS spread
    FROM rating GROUP BY ALL
)
SELECT parameters::JSON ->> 'network' AS network, parameters::JSON ->> 'dataset' AS dataset, count(*) AS neurons,
       (SELECT count(DISTINCT rater) FROM rating WHERE description_run_id = run_id) AS raters, avg(mean) AS rating,
       avg(mean) - 1.959964 * stddev_samp(mean) / sqrt(count(*)) AS low, avg(mean) + 1.959964 * stddev_samp(mean) / sqrt(count(*)) AS high,
       avg(spread) FILTER (by_neuron.raters > 1) AS spread, run_id
FROM by_neuron JOIN run USING (run_id)
GROUP BY ALL
ORDER BY network, dataset, run_id;
