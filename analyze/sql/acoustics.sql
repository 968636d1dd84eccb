-- Acoustics of adjectives: level and median frequency of the highest clips of neurons with and without an adjective (Figure 8).
-- A neuron counts with the mean over its five highest clips; low and high bound the 95 % interval of the difference, with minus without, which clips
-- of one recording, and neurons that are near-copies (see v_heard), do not make narrower (analyze/intervals.py). Levels in dB relative to full scale, frequencies in Hz. Latest run each.
WITH latest AS (
    SELECT described.run_id, described.parameters::JSON ->> 'network' AS network, described.parameters::JSON ->> 'dataset' AS dataset,
           recorded.run_id AS activation_run
    FROM run AS described JOIN run AS recorded ON recorded.run_key = described.parameters::JSON ->> 'activations'
    WHERE described.stage = 'descriptions' AND described.status = 'done'
    QUALIFY described.run_id = max(described.run_id) OVER (PARTITION BY network, dataset)
),
heard AS (
    SELECT latest.run_id, activation_run, top_clip.neuron_id, coalesce('group ' || source_group, 'clip ' || clip_id) AS source, rms_dbfs, median_frequency_hz
    FROM latest JOIN top_clip ON top_clip.run_id = activation_run JOIN clip USING (clip_id)
    WHERE side = 'high' AND rank <= 5 AND reduction <> 'max'
      AND EXISTS (FROM summary_point AS p WHERE p.run_id = latest.run_id AND p.neuron_id = top_clip.neuron_id AND is_kept)
),
copies AS (
    SELECT run_id, unnest(list(neuron_id ORDER BY neuron_id)) AS neuron_id, unnest(near_copies(list(sources ORDER BY neuron_id))) AS family
    FROM (SELECT DISTINCT run_id, activation_run, neuron_id FROM heard) AS described
    JOIN (SELECT run_id AS activation_run, neuron_id, sources FROM v_heard) USING (activation_run, neuron_id)
    GROUP BY run_id
),
measured AS (
    SELECT run_id, neuron_id, adjective, quantity, value, source, family, 1 / count(*) OVER (PARTITION BY run_id, neuron_id, adjective, quantity) AS weight,
           EXISTS (FROM concept AS c WHERE c.run_id = heard.run_id AND c.neuron_id = heard.neuron_id AND word = adjective
                   AND part_of_speech = 'adjective') AS has_it
    FROM (SELECT run_id, neuron_id, source, unnest([{'quantity': 'level_dbfs', 'value': rms_dbfs},
                                                    {'quantity': 'median_frequency_hz', 'value': median_frequency_hz}], recursive := true) FROM heard) AS heard
    JOIN copies USING (run_id, neuron_id)
    CROSS JOIN (VALUES ('loud'), ('quiet'), ('high-pitched'), ('low-pitched')) AS words (adjective)
    WHERE value IS NOT NULL
),
compared AS (
    SELECT run_id, adjective, quantity, count(DISTINCT neuron_id) FILTER (has_it) AS neurons_with,
           count(DISTINCT neuron_id) FILTER (NOT has_it) AS neurons_without,
           sum(value * weight) FILTER (has_it) / sum(weight) FILTER (has_it) AS with_it,
           sum(value * weight) FILTER (NOT has_it) / sum(weight) FILTER (NOT has_it) AS without_it,
           difference_interval(list(value), list(weight), list(has_it), list(family::VARCHAR), list(source)) AS bounds
    FROM measured GROUP BY ALL
)
SELECT network, dataset, adjective, quantity, neurons_with, neurons_without, with_it, without_it, with_it - without_it AS difference, bounds.low, bounds.high,
       run_id
FROM compared JOIN latest USING (run_id)
WHERE neurons_with > 0
ORDER BY network, dataset, adjective, quantity;
