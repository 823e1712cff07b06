package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// selfSigned writes a certificate of 127.0.0.1 and its key, and a web configuration that names them.
func selfSigned(t testing.TB) (config, cert string, roots *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	cert = write("cert.pem", certPEM)
	write("key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
	config = write("web.yml", []byte("tls_server_config:\n  cert_file: cert.pem\n  key_file: key.pem\n"))
	roots = x509.NewCertPool()
	roots.AppendCertsFromPEM(certPEM)
	return config, cert, roots
}

func TestTLS(t *testing.T) {
	t.Parallel()
	config, cert, roots := selfSigned(t)
	d := newInstance(t, "--web.config.file="+config)
	d.http = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	t.Cleanup(d.http.CloseIdleConnections)
	d.start()
	if !strings.HasPrefix(d.url, "https://") {
		t.Fatalf("address %s, want https", d.url)
	}
	eventually(t, "ready", d.ready)
	d.post(`{"event_type":"a","user_id":"ann"}`)
	d.settle()
	resp, err := http.Get("http" + strings.TrimPrefix(d.url, "https") + "/-/ready")
	if err == nil {
		resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			t.Error("it answers without TLS too")
		}
	}
	cmd := d.usagectlCommand("summary")
	cmd.Env = append(cmd.Env, "SSL_CERT_FILE="+cert)
	if r := runToEnd(t, cmd); r.code != 0 || !strings.Contains(r.stdout, "ann") {
		t.Errorf("usagectl summary: exit code %d, %s%s", r.code, r.stdout, r.stderr)
	}
	d.stop()
}
