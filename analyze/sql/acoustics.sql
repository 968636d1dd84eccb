-- Acoustics of adjectives: amplitude, level and median frequency of the highest clips of neurons with and without an adjective (Figure 8).
-- A neuron counts with the mean over its five highest clips; low and high bound the 95 % interval of the difference, with minus without (normal,
-- unequal variances, over neurons); the quartiles of both groups follow. Mean amplitudes are of full scale 1 (NULL where clips came in before they were
-- measured), levels in dB relative to full scale, frequencies in Hz. same_measure: the captions were written from measurements of the sound (captioner
-- acoustic, or tags with them), so that adjective and quantity are one thing said twice, which proves nothing. Of each choice of parameters the latest
-- run.
WITH latest AS (
    SELECT described.run_id, network, dataset, v_run.parameters, recorded.run_id AS activation_run,
           captioned.parameters::JSON ->> 'captioner' = 'acoustic' OR (captioned.parameters::JSON ->> 'acoustic') IS NOT NULL AS is_measured
    FROM run AS described JOIN v_run USING (run_id) JOIN run AS recorded ON recorded.run_key = described.parameters::JSON ->> 'activations'
    LEFT JOIN run AS captioned ON captioned.run_key = described.parameters::JSON ->> 'captions'
    WHERE described.stage = 'descriptions' AND is_latest
),
heard AS (
    SELECT latest.run_id, top_clip.neuron_id, avg(mean_amplitude) AS mean_amplitude, avg(rms_dbfs) AS level_dbfs,
           avg(median_frequency_hz) AS median_frequency_hz
    FROM latest JOIN top_clip ON top_clip.run_id = activation_run JOIN clip USING (clip_id)
    WHERE side = 'high' AND rank <= 5 AND reduction <> 'max'
      AND EXISTS (FROM summary_point AS p WHERE p.run_id = latest.run_id AND p.neuron_id = top_clip.neuron_id AND is_kept)
    GROUP BY ALL
),
measured AS (
    SELECT run_id, neuron_id, adjective, quantity, value,
           EXISTS (FROM concept AS c WHERE c.run_id = heard.run_id AND c.neuron_id = heard.neuron_id AND word = adjective
                   AND part_of_speech = 'adjective' AND is_acoustic) AS has_it
    FROM (SELECT run_id, neuron_id, unnest([{'quantity': 'mean_amplitude', 'value': mean_amplitude}, {'quantity': 'level_dbfs', 'value': level_dbfs},
                                            {'quantity': 'median_frequency_hz', 'value': median_frequency_hz}], recursive := true) FROM heard) AS heard
    CROSS JOIN (VALUES ('loud'), ('quiet'), ('high-pitched'), ('low-pitched')) AS words (adjective)
)
SELECT network, dataset, adjective, quantity, count(value) FILTER (has_it) AS neurons_with, count(value) FILTER (NOT has_it) AS neurons_without,
       avg(value) FILTER (has_it) AS with_it, avg(value) FILTER (NOT has_it) AS without_it,
       avg(value) FILTER (has_it) - avg(value) FILTER (NOT has_it) AS difference,
       avg(value) FILTER (has_it) - avg(value) FILTER (NOT has_it) - 1.959964 * sqrt(var_samp(value) FILTER (has_it) / count(value) FILTER (has_it)
           + var_samp(value) FILTER (NOT has_it) / nullif(count(value) FILTER (NOT has_it), 0)) AS low,
       avg(value) FILTER (has_it) - avg(value) FILTER (NOT has_it) + 1.959964 * sqrt(var_samp(value) FILTER (has_it) / count(value) FILTER (has_it)
           + var_samp(value) FILTER (NOT has_it) / nullif(count(value) FILTER (NOT has_it), 0)) AS high,
       coalesce(is_measured, false) AND (adjective IN ('loud', 'quiet')) = (quantity <> 'median_frequency_hz') AS same_measure,
       quantile_cont(value, 0.25) FILTER (has_it) AS with_25, quantile_cont(value, 0.5) FILTER (has_it) AS with_50,
       quantile_cont(value, 0.75) FILTER (has_it) AS with_75, quantile_cont(value, 0.25) FILTER (NOT has_it) AS without_25,
       quantile_cont(value, 0.5) FILTER (NOT has_it) AS without_50, quantile_cont(value, 0.75) FILTER (NOT has_it) AS without_75,
       parameters, run_id
FROM measured JOIN latest USING (run_id)
GROUP BY network, dataset, adjective, quantity, is_measured, parameters, run_id
HAVING neurons_with > 0
ORDER BY network, dataset, run_id, adjective, list_position(['level_dbfs', 'mean_amplitude', 'median_frequency_hz'], quantity);
