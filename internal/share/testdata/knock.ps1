# The knock of door "ssh" at gate.example.org, made on 2026-11-24.
# Keep it to yourself, like a password. Read it before you run it: whoever knows your
# public key could have sent you something else. It works in Windows PowerShell 5.1
# and in PowerShell 7.
& {
    $server = 'gate.example.org'
    $ports = @(59000, 59002)
    $each = 3000 # milliseconds that one touch may take

    function Send-Touch($Address, $Port) {
        $client = New-Object System.Net.Sockets.TcpClient($Address.AddressFamily)
        try {
            return ($client.ConnectAsync($Address, $Port).Wait($each) -and $client.Connected)
        } catch {
            return $false
        } finally {
            $client.Close()
        }
    }

    try {
        $found = @([System.Net.Dns]::GetHostAddresses($server))
    } catch {
        Write-Warning "knock: $server is not known: is the network up?"
        return
    }
    $complete = $false
    foreach ($family in @('InterNetworkV6', 'InterNetwork')) {
        foreach ($address in @($found | Where-Object { $_.AddressFamily -eq $family })) {
            $done = 0
            foreach ($port in $ports) {
                if ($done -gt 0) { Start-Sleep -Milliseconds 50 } # they arrive in their order
                if (-not (Send-Touch $address $port)) { break }
                $done++
            }
            if ($done -eq $ports.Count) {
                $complete = $true
                Write-Host "knocked on $address"
            } else {
                Write-Host "knock: $($ports[$done])/tcp on $address does not answer"
            }
            if ($done -gt 0) { break }
        }
    }
    if (-not $complete) {
        Write-Warning 'knock: not complete: is the network up? is this the newest knock?'
        return
    }
    Start-Sleep -Seconds 1
    Write-Host 'Connect within 30s.'
}
