-- Acoustics of adjectives: amplitude, level and median frequency of the highest clips of neurons with and without an adjective (Figure 8).
-- A neuron counts with the mean over its five highest clips; low and high bound the 95 % interval of the difference, with minus without, which clips
-- of one recording, and neurons that are near-copies (see v_heard), do not make narrower (analyze/intervals.py); the quartiles of both groups, over
-- neurons, follow. Mean amplitudes are of full scale 1 (no row where clips came in before they were measured), levels in dB relative to full scale,
-- frequencies in Hz. same_measure: the captions were written from measurements of the sound (captioner acoustic, or tags with them), so that
-- adjective and quantity are one thing said twice, which proves nothing. Of each choice of parameters the latest run.
WITH latest AS (
    SELECT described.run_id, network, dataset, v_run.parameters, recorded.run_id AS activation_run,
           captioned.parameters::JSON ->> 'captioner' = 'acoustic' OR (captioned.parameters::JSON ->> 'acoustic') IS NOT NULL AS is_measured
    FROM run AS described JOIN v_run USING (run_id) JOIN run AS recorded ON recorded.run_key = described.parameters::JSON ->> 'activations'
    LEFT JOIN run AS captioned ON captioned.run_key = described.parameters::JSON ->> 'captions'
    WHERE described.stage = 'descriptions' AND is_latest
),
heard AS (
    SELECT latest.run_id, activation_run, top_clip.neuron_id, coalesce('group ' || source_group, 'clip ' || clip_id) AS source,
           mean_amplitude, rms_dbfs, median_frequency_hz
    FROM latest JOIN top_clip ON top_clip.run_id = activation_run JOIN clip USING (clip_id)
    WHERE side = 'high' AND rank <= 5 AND reduction <> 'max'
      AND EXISTS (FROM summary_point AS p WHERE p.run_id = latest.run_id AND p.neuron_id = top_clip.neuron_id AND is_kept)
),
copies AS (
    SELECT run_id, unnest(list(neuron_id ORDER BY neuron_id)) AS neuron_id,
           unnest(near_copies(list(coalesce(sources, []) ORDER BY neuron_id))) AS family
    FROM (SELECT DISTINCT run_id, activation_run, neuron_id FROM heard) AS described
    LEFT JOIN (SELECT run_id AS activation_run, neuron_id, sources FROM v_heard) AS known USING (activation_run, neuron_id)
    GROUP BY run_id
),
measured AS (
    SELECT run_id, neuron_id, adjective, quantity, value, source, family, 1 / count(*) OVER (PARTITION BY run_id, neuron_id, adjective, quantity) AS weight,
           EXISTS (FROM concept AS c WHERE c.run_id = heard.run_id AND c.neuron_id = heard.neuron_id AND word = adjective
                   AND part_of_speech = 'adjective' AND is_acoustic) AS has_it
    FROM (SELECT run_id, neuron_id, source, unnest([{'quantity': 'mean_amplitude', 'value': mean_amplitude}, {'quantity': 'level_dbfs', 'value': rms_dbfs},
                                                    {'quantity': 'median_frequency_hz', 'value': median_frequency_hz}], recursive := true) FROM heard) AS heard
    JOIN copies USING (run_id, neuron_id)
    CROSS JOIN (VALUES ('loud'), ('quiet'), ('high-pitched'), ('low-pitched')) AS words (adjective)
    WHERE value IS NOT NULL
),
bounded AS (
    SELECT run_id, adjective, quantity, difference_interval(list(value), list(weight), list(has_it), list(family::VARCHAR), list(source)) AS bounds
    FROM measured GROUP BY ALL
),
compared AS (
    SELECT run_id, adjective, quantity, count(*) FILTER (has_it) AS neurons_with, count(*) FILTER (NOT has_it) AS neurons_without,
           avg(value) FILTER (has_it) AS with_it, avg(value) FILTER (NOT has_it) AS without_it,
           quantile_cont(value, 0.25) FILTER (has_it) AS with_25, quantile_cont(value, 0.5) FILTER (has_it) AS with_50,
           quantile_cont(value, 0.75) FILTER (has_it) AS with_75, quantile_cont(value, 0.25) FILTER (NOT has_it) AS without_25,
           quantile_cont(value, 0.5) FILTER (NOT has_it) AS without_50, quantile_cont(value, 0.75) FILTER (NOT has_it) AS without_75
    FROM (SELECT run_id, adjective, quantity, neuron_id, has_it, avg(value) AS value FROM measured GROUP BY ALL) GROUP BY ALL
)
SELECT network, dataset, adjective, quantity, neurons_with, neurons_without, with_it, without_it, with_it - without_it AS difference, bounds.low, bounds.high,
       coalesce(is_measured, false) AND (adjective IN ('loud', 'quiet')) = (quantity <> 'median_frequency_hz') AS same_measure,
       with_25, with_50, with_75, without_25, without_50, without_75, parameters, run_id
FROM compared JOIN bounded USING (run_id, adjective, quantity) JOIN latest USING (run_id)
WHERE neurons_with > 0
ORDER BY network, dataset, run_id, adjective, list_position(['level_dbfs', 'mean_amplitude', 'median_frequency_hz'], quantity);
