-- Queries people ask of a warehouse. Each starts with its question in a comment that ends with a question mark; the atlas shows them
-- with their results, so all must run on any warehouse, an empty one too.

-- Which neurons detect a class best?
SELECT class, network, layer, unit, round(average_precision, 3) AS average_precision, round(selectivity, 3) AS selectivity
FROM v_class_neuron JOIN v_activation_run USING (run_id, network)
WHERE is_latest AND reduction IN ('mean', 'cls') AND class IN ('dog', 'siren', 'Siren')
QUALIFY row_number() OVER (PARTITION BY run_id, class_id ORDER BY average_precision DESC, neuron_id) <= 5
ORDER BY class, average_precision DESC;

-- Which clips move the best detector of sirens most?
SELECT layer, unit, rank, clip, classes, round(activation, 3) AS activation
FROM v_top_clip
WHERE reduction IN ('mean', 'cls') AND side = 'high' AND rank <= 10 AND (run_id, neuron_id) IN (
    SELECT (run_id, neuron_id) FROM v_class_neuron JOIN v_activation_run USING (run_id, network)
    WHERE is_latest AND reduction IN ('mean', 'cls') AND lower(class) = 'siren'
    ORDER BY average_precision DESC, neuron_id LIMIT 1)
ORDER BY rank;

-- How many neurons of each layer never answer, and how often do the others?
SELECT network, layer, count(*) AS neurons, count(*) FILTER (is_dead) AS dead,
       round(avg(share_active) FILTER (NOT is_dead), 3) AS share_active
FROM activation_summary JOIN v_neuron USING (neuron_id) JOIN v_activation_run USING (run_id, network)
WHERE is_latest AND reduction IN ('mean', 'cls', 'window_mean')
GROUP BY network, layer, layer_position ORDER BY network, layer_position;

-- Which classes does no neuron detect well?
SELECT network, label_set, class, round(max(average_precision), 3) AS best_average_precision
FROM v_class_neuron JOIN v_activation_run USING (run_id, network)
WHERE is_latest AND reduction IN ('mean', 'cls')
GROUP BY network, label_set, class_id, class
HAVING max(average_precision) < 0.5 ORDER BY best_average_precision;

-- Which output neurons agree with the class they are named after?
SELECT network, layer, unit, neuron, class, round(average_precision, 3) AS average_precision
FROM v_class_neuron JOIN v_activation_run USING (run_id, network)
WHERE is_latest AND reduction IN ('mean', 'cls') AND lower(neuron) = replace(lower(class), '_', ' ')
ORDER BY average_precision DESC;

-- Which pairs of neurons do the same?
SELECT a.network, a.layer, a.unit, b.layer AS other_layer, b.unit AS other_unit, round(correlation, 4) AS correlation
FROM neighbor JOIN v_activation_run USING (run_id)
JOIN v_neuron a ON a.neuron_id = neighbor.neuron_id JOIN v_neuron b ON b.neuron_id = neighbor_id
WHERE is_latest AND a.neuron_id < b.neuron_id
ORDER BY neighbor.correlation DESC, a.neuron_id LIMIT 10;

-- Which clips are among the highest of most neurons?
SELECT clip.name AS clip, count(DISTINCT neuron_id) AS neurons, round(any_value(rms_dbfs), 1) AS rms_dbfs,
       round(any_value(median_frequency_hz)) AS median_frequency_hz
FROM top_clip JOIN clip USING (clip_id) JOIN v_activation_run USING (run_id)
WHERE is_latest AND reduction IN ('mean', 'cls') AND side = 'high' AND rank <= 10
GROUP BY clip_id, clip.name ORDER BY neurons DESC, clip LIMIT 10;

-- Which descriptions tell best which clips they were not written from activate the neuron?
SELECT v_neuron.network, layer, unit, scorer, round(auroc, 3) AS auroc, round(low, 3) AS low, round(high, 3) AS high, round(floor, 3) AS floor, description
FROM description_score JOIN run ON run.run_id = description_score.run_id JOIN v_run ON v_run.run_id = run.run_id
JOIN run AS described ON described.run_key = run.parameters::JSON ->> 'descriptions'
JOIN v_description ON v_description.run_id = described.run_id AND v_description.neuron_id = description_score.neuron_id
JOIN v_neuron ON v_neuron.neuron_id = description_score.neuron_id
WHERE is_latest AND auroc > floor
ORDER BY low DESC NULLS LAST, description_score.neuron_id LIMIT 10;

-- Which neurons answer to two kinds of sounds?
SELECT network, layer, unit, run_id, string_agg(words || ' (' || clips || ' clips)', ' and ' ORDER BY meaning) AS kinds
FROM meaning JOIN v_neuron USING (neuron_id)
WHERE run_id IN (SELECT run_id FROM v_run WHERE stage = 'polysemanticity' AND is_latest)
GROUP BY network, layer, layer_position, unit, run_id HAVING count(*) > 1
ORDER BY min(coherence) DESC, layer_position, unit LIMIT 10;

-- Which neurons are specific to a class by AAPE, and what is said of them?
SELECT network, layer, unit, class.name AS class, round(value, 3) AS active_on, description, run_id
FROM specific_neuron JOIN v_neuron USING (neuron_id) JOIN class USING (class_id)
LEFT JOIN (SELECT neuron_id, description FROM v_description QUALIFY run_id = max(run_id) OVER (PARTITION BY neuron_id)) USING (neuron_id)
WHERE measure = 'aape' AND run_id IN (SELECT run_id FROM v_run WHERE stage = 'specificity' AND is_latest)
ORDER BY value DESC, neuron_id, class LIMIT 10;

-- Which files could not be read, and why?
SELECT run_id, stage, item, reason FROM failure ORDER BY run_id, item;

-- What has been run, with what and how long?
SELECT run_id, stage, status, device, round(epoch(finished_at - started_at), 1) AS seconds, parameters
FROM run ORDER BY run_id;
