{{- define "certfactory.labels" -}}
app.kubernetes.io/name: certfactory
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- /* What every container of ours may do: next to nothing. */}}
{{- define "certfactory.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end }}

{{- define "certfactory.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: { type: RuntimeDefault }
{{- end }}
