-- Adjectives per neuron: how many different ones, of those that module C accepts, a described neuron has on average, by block (Figure 5).
-- A block is what layers' names begin with, up to the first slash; position is that of its first layer. low and high bound the mean's 95 % interval
-- (normal, over neurons as if each were drawn by itself). Latest run each.
WITH latest AS (
    SELECT run_id, parameters::JSON ->> 'network' AS network, parameters::JSON ->> 'dataset' AS dataset FROM run
    WHERE stage = 'descriptions' AND status = 'done'
    QUALIFY run_id = max(run_id) OVER (PARTITION BY network, dataset)
),
described AS (
    SELECT DISTINCT run_id, neuron_id, layer.position, split_part(layer.name, '/', 1) AS block
    FROM summary_point JOIN latest USING (run_id) JOIN neuron USING (neuron_id) JOIN layer USING (layer_id) WHERE is_kept
),
counted AS (
    SELECT run_id, neuron_id, count(DISTINCT word) AS adjectives FROM concept JOIN latest USING (run_id)
    WHERE part_of_speech = 'adjective' AND is_acoustic GROUP BY ALL
)
SELECT network, dataset, block, min(position) AS position, count(*) AS neurons, avg(coalesce(adjectives, 0)) AS adjectives,
       avg(coalesce(adjectives, 0)) - 1.959964 * stddev_samp(coalesce(adjectives, 0)) / sqrt(count(*)) AS low,
       avg(coalesce(adjectives, 0)) + 1.959964 * stddev_samp(coalesce(adjectives, 0)) / sqrt(count(*)) AS high, run_id
FROM described JOIN latest USING (run_id) LEFT JOIN counted USING (run_id, neuron_id)
GROUP BY network, dataset, block, run_id
ORDER BY network, dataset, position;
