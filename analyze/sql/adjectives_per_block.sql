-- Adjectives per neuron: how many different ones, of those that module C accepts, a described neuron has on average, by block (Figure 5).
-- A block is what layers' names begin with, up to the first slash; position is that of its first layer. low and high bound the mean's 95 % interval;
-- the block's near-copies (see v_heard) count as one. Of each choice of parameters the latest run.
WITH latest AS (
    SELECT described.run_id, network, dataset, v_run.parameters, recorded.run_id AS activation_run
    FROM v_run JOIN run AS described USING (run_id) LEFT JOIN run AS recorded ON recorded.run_key = described.parameters::JSON ->> 'activations'
    WHERE described.stage = 'descriptions' AND is_latest
),
described AS (
    SELECT DISTINCT run_id, activation_run, neuron_id, layer.position, split_part(layer.name, '/', 1) AS block
    FROM summary_point JOIN latest USING (run_id) JOIN neuron USING (neuron_id) JOIN layer USING (layer_id) WHERE is_kept
),
counted AS (
    SELECT run_id, neuron_id, count(DISTINCT word) AS adjectives FROM concept JOIN latest USING (run_id)
    WHERE part_of_speech = 'adjective' AND is_acoustic GROUP BY ALL
),
summed AS (
    SELECT run_id, block, min(position) AS position, count(*) AS neurons, avg(coalesce(adjectives, 0)) AS adjectives,
           mean_interval(list(coalesce(adjectives, 0)::DOUBLE ORDER BY neuron_id),
                         near_copies(list(coalesce(sources, []) ORDER BY neuron_id))::VARCHAR[]) AS bounds
    FROM described LEFT JOIN counted USING (run_id, neuron_id)
    LEFT JOIN (SELECT run_id AS activation_run, neuron_id, sources FROM v_heard) AS heard USING (activation_run, neuron_id)
    GROUP BY run_id, block
)
SELECT network, dataset, block, position, neurons, adjectives, bounds.low, bounds.high, parameters, run_id
FROM summed JOIN latest USING (run_id)
ORDER BY network, dataset, run_id, position;
