-- Validation: how often each method finds what was planted in a network whose neurons are known by construction.
-- low and high bound the 95 % interval (Wilson's score). Of each choice of parameters the latest run.
WITH latest AS (
    SELECT run_id, network, dataset, parameters FROM v_run WHERE stage = 'validation' AND is_latest
)
SELECT network, dataset, method, measure, layer, kind, correct, total, correct / total AS share,
       wilson_low(correct / total, total) AS low, wilson_high(correct / total, total) AS high,
       parameters, run_id
FROM validation JOIN latest USING (run_id)
ORDER BY network, dataset, run_id, method, measure, layer, kind;
