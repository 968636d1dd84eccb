-- Tonotopy: where neurons that are positions of a feature map lie on its frequency axis, and which frequency they answer to best.
-- A row a place on the axis of each layer recorded by positions: tuned is the share of its neurons that have a best frequency, quantile_25, median and
-- quantile_75 (hertz) are over these. correlation is Spearman's between place and best frequency over the layer's tuned neurons, 1 where it rises along
-- the whole axis. Of each choice of parameters the latest run.
WITH latest AS (
    SELECT run_id, network, dataset, parameters FROM v_run WHERE stage = 'tuning' AND is_latest
),
placed AS (
    SELECT run_id, layer_id, frequency_position, value AS frequency_hz
    FROM tuning JOIN latest USING (run_id) JOIN neuron USING (neuron_id)
    WHERE measure = 'frequency_hz' AND frequency_position IS NOT NULL
),
ranked AS (
    SELECT run_id, layer_id, rank() OVER place + (count(*) OVER (place_ties) - 1) / 2 AS place, rank() OVER hertz + (count(*) OVER (hertz_ties) - 1) / 2 AS hertz
    FROM placed WHERE frequency_hz IS NOT NULL
    WINDOW place AS (PARTITION BY run_id, layer_id ORDER BY frequency_position), place_ties AS (PARTITION BY run_id, layer_id, frequency_position),
           hertz AS (PARTITION BY run_id, layer_id ORDER BY frequency_hz), hertz_ties AS (PARTITION BY run_id, layer_id, frequency_hz)
),
correlated AS (
    SELECT run_id, layer_id, CASE WHEN count(*) > 2 AND stddev_pop(place) > 0 AND stddev_pop(hertz) > 0 THEN corr(place, hertz) END AS correlation
    FROM ranked GROUP BY ALL
)
SELECT latest.network, dataset, layer.name AS layer, layer.position, frequency_position, count(*) AS neurons, count(frequency_hz) / count(*) AS tuned,
       quantile_cont(frequency_hz, 0.25) AS quantile_25, median(frequency_hz) AS median, quantile_cont(frequency_hz, 0.75) AS quantile_75, correlation,
       parameters, run_id
FROM placed JOIN latest USING (run_id) JOIN layer USING (layer_id) LEFT JOIN correlated USING (run_id, layer_id)
GROUP BY ALL
ORDER BY latest.network, dataset, run_id, position, frequency_position;
