-- A configuration that is taken into use while the service runs is an entry of the log.

CREATE OR REPLACE FUNCTION log_note(kinds text[], events text[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF coalesce(cardinality(kinds), 0) = 0 THEN
        PERFORM FROM public.log_head FOR UPDATE;
        RETURN;
    END IF;
    PERFORM FROM unnest(kinds) AS n (kind)
        WHERE n.kind NOT IN ('refused', 'exported', 'delivered', 'started', 'configured', 'stopped', 'hsm', 'clock',
                             'acknowledged');
    IF FOUND THEN
        RAISE insufficient_privilege USING MESSAGE = 'entries of this kind are written with their rows';
    END IF;
    PERFORM public.log_append(kinds, events);
END
$$;
COMMENT ON FUNCTION log_note(text[], text[]) IS 'Appends events that have no row of their own: refusals, exports, starts, configurations and stops, states of HSM and clock.';
