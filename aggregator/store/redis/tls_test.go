package redis_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"usaged/aggregator/store/redis"
	"usaged/aggregator/store/redis/redistest"
)

// certificate writes a self-signed certificate for 127.0.0.1 and its key.
func certificate(t *testing.T) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "usaged test"}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: cert}, keyFile: {Type: "PRIVATE KEY", Bytes: der}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}

func TestTLS(t *testing.T) {
	t.Parallel()
	certFile, keyFile := certificate(t)
	tlsAddr := redistest.FreeAddr(t)
	_, port, _ := net.SplitHostPort(tlsAddr)
	redistest.Start(t, "--tls-port", port, "--tls-cert-file", certFile, "--tls-key-file", keyFile, "--tls-ca-cert-file", certFile)
	for _, tt := range []struct {
		it  string
		tls redis.TLS
		ok  bool
	}{
		{"connects with a certificate of its own", redis.TLS{CAFile: certFile, CertFile: certFile, KeyFile: keyFile}, true},
		{"doesn't trust an unknown server", redis.TLS{CertFile: certFile, KeyFile: keyFile}, false},
		{"doesn't trust another name", redis.TLS{CAFile: certFile, CertFile: certFile, KeyFile: keyFile, ServerName: "other"}, false},
	} {
		t.Run("it "+tt.it, func(t *testing.T) {
			cfg := config(t, "rediss://"+tlsAddr, 1)
			cfg.TLS = tt.tls
			s := openClosed(t, cfg)
			if _, err := s.Producers(t.Context()); (err == nil) != tt.ok {
				t.Errorf("error = %v", err)
			}
		})
	}
}
