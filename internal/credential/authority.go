package credential

// Authority returns who signed the certificate that was shown; false: there was none.
func (p *Party) Authority() (Fingerprint, bool) {
	if p.certificate == nil {
		return Fingerprint{}, false
	}
	return FingerprintOf(p.certificate.authority), true
}

// Certifies says whether an authority's certificates may count: it is known, and neither
// locked nor revoked.
func (r *Ring) Certifies(authority Fingerprint) bool {
	lines := r.o.File.find(authority, true)
	return len(lines) > 0 && !r.o.Locked[authority.String()] &&
		!r.revoked(func(l *Revocations) bool { return l.key(lines[0].Blob, authority) })
}
